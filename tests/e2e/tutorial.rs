//! docs/tutorial.md, done from its first command to its last, in a copy of the transforms, on the pipe that runs.
//!
//! A block that begins with ```` ```console ```` has commands behind `$ ` and under each what it prints; one with a path
//! behind its language is written to that file. In what is printed `…` stands for anything, and for any lines where it
//! stands alone; spaces don't count. What goes to stderr stands where a terminal shows it. A digest of the text stands for the
//! one that is printed in its place.

use crate::harness::on_the_pipe;
use anyhow::{Context, bail, ensure};
use outflow_stack::workspace_root;
use outflow_tests::copy_guests;
use regex::Regex;
use std::{collections::HashMap, path::PathBuf, process::Output};
use tempfile::TempDir;
use tokio::process::Command;
use xtask::pipe::{FIRST_TRANSFORM, Outflow};

const TEXT: &str = "docs/tutorial.md";
/// Where the text says that the shop answers.
const ADDRESS: &str = "http://127.0.0.1:9100";

#[test]
fn each_step_of_the_tutorial_prints_what_it_says() {
    on_the_pipe(async |shop| {
        let text = std::fs::read_to_string(workspace_root().join(TEXT))?;
        let steps = steps(&text)?;
        ensure!(steps.len() > 10, "{TEXT} has {} steps", steps.len());
        let first = shop.pipe.outflow.publish(FIRST_TRANSFORM).await?;
        shop.pipe.outflow.activate(&first).await?;
        shop.orders(30).await?;
        shop.assert_conserved().await?;

        let mut session =
            Session::new(&shop.pipe.outflow, shop.pipe.system.functions_url.trim_end_matches('/'))?;
        for step in steps {
            session.take(&step).await.with_context(|| format!("{TEXT}:{}", step.line))?;
        }
        shop.assert_conserved().await?;
        shop.pipe.outflow.activate(&first).await
    });
}

#[derive(Debug)]
struct Step {
    line: usize,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Write { path: PathBuf, text: String },
    Run { command: String, prints: Vec<String> },
}

fn steps(text: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let block: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| *line != "```").collect();
        if info == "console" {
            commands(&block, &mut steps)?;
        } else if let Some((_, path)) = info.split_once(' ') {
            let text: String = block.iter().map(|(_, line)| format!("{line}\n")).collect();
            steps.push(Step { line: number, action: Action::Write { path: path.into(), text } });
        }
    }
    Ok(steps)
}

fn commands(block: &[(usize, &str)], steps: &mut Vec<Step>) -> anyhow::Result<()> {
    let mut goes_on = false;
    for (number, line) in block {
        if let Some(command) = line.strip_prefix("$ ") {
            let action = Action::Run { command: command.to_owned(), prints: Vec::new() };
            steps.push(Step { line: *number, action });
        } else {
            let Some(Step { action: Action::Run { command, prints }, .. }) = steps.last_mut() else {
                bail!("{TEXT}:{number}: a block begins with a command");
            };
            match goes_on {
                true => *command += &format!("\n{line}"),
                false => prints.push((*line).to_owned()),
            }
        }
        goes_on = line.ends_with('\\');
    }
    Ok(())
}

/// A checkout in which a reader works.
struct Session<'a> {
    outflow: &'a Outflow,
    shop: &'a str,
    checkout: TempDir,
    /// Digests of the text and those that they stand for.
    digests: HashMap<String, String>,
}

impl<'a> Session<'a> {
    fn new(outflow: &'a Outflow, shop: &'a str) -> anyhow::Result<Self> {
        let checkout = TempDir::new()?;
        copy_guests(checkout.path())?;
        Ok(Self { outflow, shop, checkout, digests: HashMap::new() })
    }

    async fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        match &step.action {
            Action::Write { path, text } => {
                let path = self.checkout.path().join(path);
                ensure!(path.is_file(), "{} is not there to be changed", path.display());
                std::fs::write(path, text)?;
                Ok(())
            }
            Action::Run { command, prints } => {
                let output = self.run(command).await?;
                let stdout = String::from_utf8_lossy(&output.stdout);
                let all = || format!("$ {command}\n{stdout}{}", String::from_utf8_lossy(&output.stderr));
                ensure!(output.status.success(), "{}\n{}", output.status, all());
                // Seen with --nocapture, and where a later step fails.
                println!("{}", all());
                let found: Vec<&str> = stdout.lines().collect();
                self.compare(prints, &found).with_context(all)
            }
        }
    }

    async fn run(&self, command: &str) -> anyhow::Result<Output> {
        let mut command = command.replace(ADDRESS, self.shop);
        for (text, real) in &self.digests {
            command = command.replace(text, real);
        }
        // The reader's `cargo outflow` is the command that is built already, and `stack env` is set.
        let script = format!(
            r#"exec 2>&1
cargo() {{ case "$1" in outflow) shift; "$OUTFLOW" "$@";; xtask) ;; *) command cargo "$@";; esac; }}
{command}"#
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).current_dir(self.checkout.path()).kill_on_drop(true);
        bash.env("OUTFLOW", self.outflow.program()).envs(self.outflow.env()).env("USER", "you");
        bash.output().await.context("bash could not be run")
    }

    /// Whether `found` is what `prints` says, from its first line to its last.
    fn compare(&mut self, prints: &[String], found: &[&str]) -> anyhow::Result<()> {
        let (mut at, mut any_lines) = (0, false);
        for expected in prints.iter().filter(|line| !line.trim().is_empty()) {
            if expected.trim() == "…" {
                any_lines = true;
                continue;
            }
            let pattern = pattern(expected, &self.digests)?;
            let rest = found.get(at..).unwrap_or_default().iter();
            let mut rest = rest.enumerate().filter(|(_, line)| !line.trim().is_empty());
            let fits = match any_lines {
                true => rest.find_map(|(skipped, line)| Some((skipped, pattern.captures(line)?))),
                false => rest.next().and_then(|(skipped, line)| Some((skipped, pattern.captures(line)?))),
            };
            let Some((skipped, captures)) = fits else { bail!("it does not print «{}»", expected.trim()) };
            for name in pattern.capture_names().flatten() {
                let (text, real) = (name.trim_start_matches('d'), &captures[name]);
                self.digests.insert(text.to_owned(), real.to_owned());
            }
            (at, any_lines) = (at + skipped + 1, false);
        }
        let more = found.iter().skip(at).find(|line| !line.trim().is_empty());
        ensure!(any_lines || more.is_none(), "it prints more: «{}»", more.unwrap_or(&""));
        Ok(())
    }
}

/// What a line must be. A digest that was not met before may be any.
fn pattern(line: &str, digests: &HashMap<String, String>) -> anyhow::Result<Regex> {
    let digest = Regex::new(r"\b[0-9a-f]{12}\b")?;
    let words = line.split_whitespace().map(|word| {
        let mut word = regex::escape(word).replace('…', ".*");
        for found in digest.find_iter(line).map(|found| found.as_str()) {
            let real = match digests.get(found) {
                Some(real) => real.clone(),
                // Of digits alone it may be a number.
                None if found.bytes().all(|byte| byte.is_ascii_digit()) => continue,
                None => format!("(?<d{found}>[0-9a-f]{{12}})"),
            };
            word = word.replacen(found, &real, 1);
        }
        word
    });
    let words: Vec<String> = words.collect();
    Ok(Regex::new(&format!(r"^\s*{}\s*$", words.join(r"\s+")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_where_it_is_the_same_but_for_ellipses_spaces_and_digests() {
        let known = HashMap::from([("aaaaaaaaaaa1".to_owned(), "0123456789ab".to_owned())]);
        let fits =
            |expected: &str, found: &str| pattern(expected, &known).expect("a pattern").is_match(found);
        assert!(fits("a  table │ 1 │", " a table   │ 1 │"));
        assert!(fits("took … ms", "took 1,204.5 ms"));
        assert!(fits("active aaaaaaaaaaa1", "active 0123456789ab"));
        assert!(!fits("active aaaaaaaaaaa1", "active aaaaaaaaaaa1"));
        assert!(fits("published bbbbbbbbbbb2.", "published 99999999999a."));
        assert!(!fits("took … ms", "took 3 s"));
        assert!(!fits("sum (1+1)", "sum (11)"));
    }
}

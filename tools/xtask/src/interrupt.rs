//! Ctrl-C and SIGTERM, so that whatever runs is stopped in order.

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

/// Returns when the process is asked to end; the commands that it waits for are asked, too.
pub(crate) async fn interrupted() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    // Ctrl-C in a terminal reaches them anyway; a signal to this process alone would leave cargo's compilers behind.
    for pid in commands(Pid::this()) {
        // One that has just ended is as good.
        let _ = kill(pid, Signal::SIGTERM);
    }
    Ok(())
}

/// What a process has started, and what that has started, within its process group. Services and functions have
/// groups of their own.
fn commands(of: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let all: Vec<Process> = pids.filter_map(Process::read).collect();
    let Some(own) = Process::read(of.as_raw()) else { return Vec::new() };
    let mut family = vec![own.pid];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        let children = all.iter().filter(|process| process.parent == parent && process.group == own.group);
        family.extend(children.map(|process| process.pid));
        at += 1;
    }
    family.into_iter().skip(1).map(Pid::from_raw).collect()
}

struct Process {
    pid: i32,
    parent: i32,
    group: i32,
}

impl Process {
    /// Fields 4 and 5 of `/proc/PID/stat`, counted from behind the name, which may hold anything.
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace().skip(1).map(str::parse);
        Some(Self { pid, parent: fields.next()?.ok()?, group: fields.next()?.ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    #[test]
    fn commands_are_found_with_what_they_have_started_and_services_are_not() {
        let script = "sleep 600 & echo $!; setsid sleep 600 & echo $!; wait";
        let mut shell = Command::new("bash").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let started: Vec<Pid> =
            lines.take(2).map(|line| Pid::from_raw(line.unwrap().parse().unwrap())).collect();
        let shell_pid = Pid::from_raw(i32::try_from(shell.id()).unwrap());
        // `setsid` leaves the group a moment after it was started.
        while commands(shell_pid).len() != 1 {
            std::thread::yield_now();
        }

        let found = commands(Pid::this());

        for pid in [shell_pid, started[0], started[1]] {
            kill(pid, Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        assert!(found.contains(&shell_pid) && found.contains(&started[0]), "{found:?}");
        assert!(!found.contains(&started[1]), "{found:?}");
    }
}

//! What goes on in steps that take seconds: a line on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// A step under way; its line goes with it.
pub(super) struct Step(ProgressBar);

impl Step {
    pub(super) fn begin(what: impl Into<String>) -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
        // Hidden where stderr is no terminal.
        let spinner = ProgressBar::new_spinner()
            .with_style(style.expect("the template is well formed"))
            .with_message(what.into());
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self(spinner)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

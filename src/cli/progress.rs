//! Progress on standard error: only on a terminal, and only where the work is long.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Work that ends sooner is not worth a bar.
const PATIENCE: Duration = Duration::from_millis(700);

/// A bar that appears when the work turns out to be long. Indicatif shows nothing where standard error is no terminal.
pub(super) struct Bar {
    started: Instant,
    bar: Mutex<Option<ProgressBar>>,
}

impl Default for Bar {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            bar: Mutex::new(None),
        }
    }
}

impl Bar {
    /// Shows how far the work is.
    pub(super) fn show(&self, what: &str, done: u64, of: u64) {
        if self.started.elapsed() < PATIENCE {
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos} of {human_len}");
            let bar = ProgressBar::new(of);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_message(what.to_owned());
        bar.set_length(of.max(done));
        bar.set_position(done);
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Some(bar) = self
            .bar
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            bar.finish_and_clear();
        }
    }
}

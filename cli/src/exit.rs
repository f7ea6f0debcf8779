//! The statuses that `tandem` ends with.

use std::process::ExitCode;

use anyhow::anyhow;

use crate::registry::CallError;

/// How `tandem` ends. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was done, and what was asked about is well.
    Good = 0,
    /// The answer is no: something differs, is not there, is not well, or was refused.
    No = 1,
    /// The command line or a file is wrong; nothing was sent.
    Usage = 2,
    /// Nobody answers, or the registry's store does not. The same may go well later.
    Unavailable = 3,
    /// The registry does not let this user do that.
    Denied = 4,
}

/// The same, for `tandem --help`.
pub(crate) const TABLE: &str = "\
Exit status:
  0  done; what was asked about is well
  1  the answer is no: it differs, is not there, is not well, or was refused
  2  the command line or a file is wrong; nothing was changed
  3  nobody answers, or the registry's store does not: try again later
  4  the registry does not let you do that";

impl Exit {
    /// Returns an error that ends the program in this way.
    pub(crate) fn because(self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        let error = error.into();
        anyhow!(Failure { exit: self, error })
    }

    /// Returns how an error ends the program; [`Exit::No`] unless it says otherwise.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.exit;
        }
        error
            .downcast_ref::<CallError>()
            .map_or(Self::No, CallError::exit)
    }

    /// Returns [`Exit::Good`] if it is, else [`Exit::No`].
    pub(crate) fn good_if(good: bool) -> Self {
        if good { Self::Good } else { Self::No }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error and how it ends the program.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn an_error_keeps_its_status_under_context() {
        let error = Exit::Unavailable.because(anyhow!("nobody"));
        assert_eq!(Exit::of(&error), Exit::Unavailable);
        let error = Err::<(), _>(error).context("while asking").unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unavailable);
        assert_eq!(Exit::of(&anyhow!("no")), Exit::No);
    }

    #[test]
    fn the_help_lists_every_status() {
        let all = [
            Exit::Good,
            Exit::No,
            Exit::Usage,
            Exit::Unavailable,
            Exit::Denied,
        ];
        let numbers: Vec<_> = TABLE
            .lines()
            .filter_map(|line| line.trim().split("  ").next()?.parse::<u8>().ok())
            .collect();
        assert_eq!(numbers, all.map(|exit| exit as u8));
    }
}

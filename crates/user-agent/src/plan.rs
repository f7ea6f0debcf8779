//! What a caller and a callee are going to do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// The header by which a caller tells the callee what to do; its value is a [`CalleePlan`].
pub const CALLEE_PLAN_HEADER: &str = "X-Callee-Plan";

/// What the caller of one call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallPlan {
    /// The user part of the From URI.
    pub caller: String,
    /// The user part of the Request-URI.
    pub called: String,
    /// From the answer to the caller's BYE, unless the callee hangs up before.
    pub hold: Duration,
    /// From the INVITE to the CANCEL, if the call is not answered by then. It waits for the first
    /// provisional response, as RFC 3261 section 9.1 demands.
    pub cancel_after: Option<Duration>,
    /// Whether reliable provisional responses (RFC 3262) are offered.
    pub reliable: bool,
    /// Requests within the dialog, each with its time from the answer.
    pub in_dialog: Vec<(Duration, InDialog)>,
    /// What the callee is told to do; if nothing, its own seed decides.
    pub callee: Option<CalleePlan>,
}

impl CallPlan {
    /// Plans a call to `called` that the caller ends after `hold`.
    #[must_use]
    pub fn new(called: &str, hold: Duration) -> Self {
        Self {
            caller: "100".to_owned(),
            called: called.to_owned(),
            hold,
            cancel_after: None,
            reliable: false,
            in_dialog: Vec::new(),
            callee: None,
        }
    }
}

/// A request within a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InDialog {
    /// INFO, RFC 6086.
    Info,
    /// INVITE with an unchanged session description.
    Reinvite,
    /// UPDATE, RFC 3311.
    Update,
}

/// What the callee of one call does. Written `ring=1500;status=200;hangup=3000;bye=0`, times in
/// milliseconds; only `status` must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalleePlan {
    /// From the INVITE to the final response; a 180 comes at once unless it is zero.
    pub ring: Duration,
    /// The final response: 200, or 300 to 699.
    pub status: u16,
    /// From the ACK to the callee's BYE, unless the caller hangs up before.
    pub hang_up_after: Option<Duration>,
    /// From the caller's BYE to its answer.
    pub bye_delay: Duration,
}

impl CalleePlan {
    /// Plans to answer after ringing for `ring`.
    #[must_use]
    pub fn answer(ring: Duration) -> Self {
        Self {
            ring,
            status: 200,
            hang_up_after: None,
            bye_delay: Duration::ZERO,
        }
    }

    /// Plans to refuse with `status` after ringing for `ring`.
    #[must_use]
    pub fn refuse(ring: Duration, status: u16) -> Self {
        Self {
            status,
            ..Self::answer(ring)
        }
    }

    /// Tells whether the call is answered.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.status < 300
    }
}

impl fmt::Display for CalleePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ring,
            status,
            hang_up_after,
            bye_delay,
        } = self;
        write!(f, "ring={};status={status}", ring.as_millis())?;
        if let Some(after) = hang_up_after {
            write!(f, ";hangup={}", after.as_millis())?;
        }
        write!(f, ";bye={}", bye_delay.as_millis())
    }
}

/// Why a text is no [`CalleePlan`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseCalleePlanError {
    /// A part is not `name=number` with a known name.
    #[error("{0:?} is not one of ring, status, hangup and bye with a number")]
    Part(String),
    /// The status is missing or not final.
    #[error("status must be 200, or 300 to 699")]
    Status,
}

impl FromStr for CalleePlan {
    type Err = ParseCalleePlanError;

    fn from_str(text: &str) -> Result<Self, ParseCalleePlanError> {
        let mut plan = Self {
            status: 0,
            ..Self::answer(Duration::ZERO)
        };
        for part in text.split(';').map(str::trim) {
            let unknown = || ParseCalleePlanError::Part(part.to_owned());
            let (name, number) = part.split_once('=').ok_or_else(unknown)?;
            let number: u32 = number.parse().map_err(|_| unknown())?;
            let time = Duration::from_millis(number.into());
            match name {
                "ring" => plan.ring = time,
                "status" => plan.status = number.try_into().map_err(|_| unknown())?,
                "hangup" => plan.hang_up_after = Some(time),
                "bye" => plan.bye_delay = time,
                _ => return Err(unknown()),
            }
        }
        match plan.status {
            200 | 300..=699 => Ok(plan),
            _ => Err(ParseCalleePlanError::Status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callee_plan_comes_back_as_it_was_written() {
        let plans = [
            CalleePlan::answer(Duration::from_millis(1_500)),
            CalleePlan::refuse(Duration::ZERO, 486),
            CalleePlan {
                hang_up_after: Some(Duration::from_secs(3)),
                bye_delay: Duration::from_millis(700),
                ..CalleePlan::answer(Duration::ZERO)
            },
        ];
        for plan in plans {
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
    }

    #[test]
    fn a_text_that_is_no_callee_plan_is_refused() {
        for text in [
            "",
            "ring=5",
            "status=180",
            "status=700",
            "status=200;colour=3",
            "status=x",
        ] {
            assert!(text.parse::<CalleePlan>().is_err(), "{text}");
        }
    }
}

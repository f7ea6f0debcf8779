//! How requests leave a router: `sip.egress`.

use std::fmt;
use std::str::FromStr;

/// How requests leave a router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// Back to the SBC they came from, which delivers them and so knows what a dead router had in hand.
    #[default]
    Sbc,
    /// Straight to the next hop.
    Direct,
}

impl Egress {
    /// What an operator must know of it.
    #[must_use]
    pub fn note(self) -> Option<&'static str> {
        match self {
            Self::Sbc => None,
            Self::Direct => {
                Some("only first requests and carrier-side in-dialog requests fail over")
            }
        }
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sbc => "sbc",
            Self::Direct => "direct",
        })
    }
}

impl FromStr for Egress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sbc" => Ok(Self::Sbc),
            "direct" => Ok(Self::Direct),
            _ => Err("is neither sbc nor direct"),
        }
    }
}

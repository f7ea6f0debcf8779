//! The selection algorithms, under Kamailio's numbers.
//!
//! Source of the numbers: Kamailio dispatcher, `ds_select_dst`.

use thiserror::Error;

/// How a set puts its destinations in order for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// Weighted rendezvous hashing of the Call-ID: the same order on every node of the cluster.
    CallIdHash = 0,
    /// One after the other, by a counter of the caller.
    RoundRobin = 4,
    /// The highest priority first, equal ones in the order of their ids.
    Priority = 8,
}

/// Why a number names no algorithm that a set can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AlgorithmError {
    /// Kamailio has it, this crate does not.
    #[error(
        "algorithm {number} ({name}) is not supported; supported are 0 (Call-ID hash), \
         4 (round robin) and 8 (priority)"
    )]
    Unsupported {
        /// The number that was asked for.
        number: u32,
        /// What Kamailio's manual calls it.
        name: &'static str,
    },
    /// Nobody has it.
    #[error(
        "there is no algorithm {number}; supported are 0 (Call-ID hash), 4 (round robin) and \
         8 (priority)"
    )]
    Unknown {
        /// The number that was asked for.
        number: u32,
    },
}

impl Algorithm {
    /// Returns Kamailio's number of the algorithm.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32
    }
}

impl TryFrom<u32> for Algorithm {
    type Error = AlgorithmError;

    fn try_from(number: u32) -> Result<Self, AlgorithmError> {
        let name = match number {
            0 => return Ok(Self::CallIdHash),
            4 => return Ok(Self::RoundRobin),
            8 => return Ok(Self::Priority),
            1 => "hash of the From URI",
            2 => "hash of the To URI",
            3 => "hash of the Request-URI",
            5 => "hash of the credentials",
            6 => "random",
            7 => "hash of a variable",
            9 => "weight",
            10 => "call load",
            11 => "relative weight",
            12 => "parallel",
            13 => "latency",
            _ => return Err(AlgorithmError::Unknown { number }),
        };
        Err(AlgorithmError::Unsupported { number, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_its_algorithm_and_back() {
        for algorithm in [
            Algorithm::CallIdHash,
            Algorithm::RoundRobin,
            Algorithm::Priority,
        ] {
            assert_eq!(Algorithm::try_from(algorithm.number()), Ok(algorithm));
        }
    }

    #[test]
    fn a_number_of_kamailio_that_we_lack_is_refused_by_name() {
        let error = Algorithm::try_from(9).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("algorithm 9 (weight) is not supported")
        );
        assert_eq!(
            Algorithm::try_from(99),
            Err(AlgorithmError::Unknown { number: 99 })
        );
    }
}

//! What both ends say of the calls, in their logs and with their exit status.

use anyhow::{Context, Result, ensure};

use super::project::Project;

/// Counts of a line of the carrier's progress.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) completed: u32,
    pub(crate) failed: u32,
}

impl Counts {
    /// Reads a line such as `carrier: 9 placed, 1 ringing, 2 talking, 6 completed, 0 failed; ...`.
    pub(crate) fn read(line: &str) -> Result<Self> {
        let count = |noun: &str| {
            let words: Vec<_> = line
                .split([' ', ',', ';'])
                .filter(|w| !w.is_empty())
                .collect();
            let at = words.iter().position(|word| *word == noun)?;
            words.get(at.checked_sub(1)?)?.parse().ok()
        };
        let counted = count("completed").zip(count("failed"));
        let (completed, failed) = counted.with_context(|| format!("{line:?} counts no calls"))?;
        Ok(Self { completed, failed })
    }
}

/// Tells whether the carrier runs.
pub(crate) fn are_running(project: &Project) -> Result<bool> {
    Ok(project
        .state("carrier")?
        .is_some_and(|(state, _)| state == "running"))
}

/// Returns the carrier's last line of progress.
pub(crate) fn last_line(project: &Project) -> Result<Option<String>> {
    said_last(project, "carrier", " placed, ")
}

/// Fails unless both ends have ended and say that every call completed, more than `before` of them.
pub(crate) fn all_completed(project: &Project, before: u32) -> Result<()> {
    for service in ["carrier", "ipbx"] {
        let line = said_last(project, service, "the end: ")?;
        let line = line.with_context(|| format!("the {service} did not come to its end"))?;
        println!("   ({line})");
        let state = project.state(service)?;
        ensure!(
            state == Some(("exited".to_owned(), 0)),
            "the {service} ended with {state:?}"
        );
        let counts = Counts::read(&line)?;
        ensure!(counts.failed == 0 && counts.completed > before, "{line}");
    }
    Ok(())
}

fn said_last(project: &Project, service: &str, words: &str) -> Result<Option<String>> {
    let log = project.output(&format!("logs --no-color --tail=50 {service}"))?;
    let line = log.lines().rfind(|line| line.contains(words));
    // Compose puts the container's name and a bar before each line.
    Ok(line.map(|line| {
        line.split_once("| ")
            .map_or(line, |(_, line)| line)
            .to_owned()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_both_ends_are_read() {
        let line = "carrier: the end: 9 placed, 0 ringing, 0 talking, 7 completed, 2 failed; slowest BYE 3 ms";
        let (completed, failed) = (7, 2);
        assert_eq!(Counts::read(line).unwrap(), Counts { completed, failed });
        let line = "ipbx: 9 received, 1 going on, 7 completed, 0 refused or cancelled, 2 failed; 0 requests came twice";
        assert_eq!(Counts::read(line).unwrap(), Counts { completed, failed });
        assert!(Counts::read("carrier: no call came through within 1m").is_err());
    }
}

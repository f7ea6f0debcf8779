//! What `compose/README.md` tells people to type.

use anyhow::{Result, ensure};

/// A command, and the heading that it stands under.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) title: String,
    pub(crate) command: String,
}

/// Returns the commands in order: lines that begin with `$ ` in blocks of `console`.
pub(crate) fn steps(text: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut title = String::new();
    let mut in_block = false;
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut title);
        } else if line.starts_with("```") {
            in_block = line == "```console";
        } else if in_block && let Some(command) = line.strip_prefix("$ ") {
            let (title, command) = (title.clone(), command.to_owned());
            steps.push(Step { title, command });
        }
    }
    ensure!(!steps.is_empty(), "there is no command in the README");
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_and_their_output_is_not_taken_for_one() {
        let text = "## A\n```console\n$ one two\nout\n```\n```sh\n$ not\n```\n## B\n```console\n$ three\n```\n";
        let steps = steps(text).unwrap();
        let steps: Vec<_> = steps
            .iter()
            .map(|step| (step.title.as_str(), step.command.as_str()))
            .collect();
        assert_eq!(steps, [("A", "one two"), ("B", "three")]);
        assert!(super::steps("# nothing").is_err());
    }
}

//! Logs to standard error, as text for people or as JSON for machines.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::{self, Handle};

/// Puts another filter in the place of the one in force.
type Replace = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// Set once logging was started.
static REPLACE: OnceLock<Replace> = OnceLock::new();

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("is neither text nor json"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What is logged: `info`, or by target as in `info,tandem_sbc=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for Filter {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        EnvFilter::try_new(text).map(|_| Self(text.to_owned()))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Starts logging for the whole process. Only the first call has an effect, so that several
/// services can live in one process.
pub fn start(filter: &Filter, format: Format) {
    let builder = tracing_subscriber::fmt().with_writer(io::stderr);
    let filter = EnvFilter::new(&filter.0);
    let (started, replace) = match format {
        Format::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let replace = replace_by(builder.reload_handle());
            (builder.try_init(), replace)
        }
        Format::Json => {
            let builder = builder.json().flatten_event(true).with_env_filter(filter);
            let builder = builder.with_filter_reloading();
            let replace = replace_by(builder.reload_handle());
            (builder.try_init(), replace)
        }
    };
    // An error means that logging was started before, by us or by who runs us.
    if started.is_ok() {
        REPLACE.get_or_init(|| replace);
    }
}

fn replace_by<S: 'static>(handle: Handle<EnvFilter, S>) -> Replace {
    Box::new(move |filter| handle.reload(filter))
}

/// Lets something else through from now on, in the whole process. Without effect where [`start`] had
/// none.
pub fn change(filter: &Filter) {
    if let Some(replace) = REPLACE.get()
        && let Err(error) = replace(EnvFilter::new(&filter.0))
    {
        tracing::warn!(%error, "what is logged could not be changed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_formats_are_checked() {
        assert_eq!(
            "info,tandem_sbc=debug"
                .parse::<Filter>()
                .unwrap()
                .to_string(),
            "info,tandem_sbc=debug"
        );
        assert!("tandem_sbc=loud".parse::<Filter>().is_err());
        assert_eq!("json".parse::<Format>(), Ok(Format::Json));
        assert!("xml".parse::<Format>().is_err());
    }
}

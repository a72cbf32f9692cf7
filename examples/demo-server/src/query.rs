//! Query parameters, each checked by name.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use crate::problem::Problem;

/// Upper limit of `interval_ms`.
const MAX_INTERVAL_MS: u64 = 3_600_000;

/// The parameters of one query string.
///
/// A handler takes the parameters it knows and then calls [`finish`](Query::finish), which rejects the rest: a misspelt
/// parameter is an error, not a silent default.
#[derive(Debug)]
pub(crate) struct Query {
    values: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Query {
    /// Splits a raw query string. A parameter given twice is an error.
    pub(crate) fn parse(raw: Option<&str>) -> Result<Self, Problem> {
        let mut values = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(raw.unwrap_or_default().as_bytes()) {
            if values.contains_key(name.as_ref()) {
                return Err(Problem::parameter(&name, "given more than once"));
            }
            values.insert(name.into_owned(), value.into_owned());
        }
        Ok(Self {
            values,
            known: Vec::new(),
        })
    }

    /// A whole number within `range`; `default` when absent.
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<u64, Problem> {
        let Some(text) = self.take(name) else {
            return Ok(default);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(Problem::parameter(
                name,
                format!(
                    "expected a whole number from {} to {}, not `{text}`",
                    range.start(),
                    range.end()
                ),
            )),
        }
    }

    /// `0` or `1`; `default` when absent.
    pub(crate) fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, Problem> {
        match self.take(name).as_deref() {
            None => Ok(default),
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(text) => Err(Problem::parameter(
                name,
                format!("expected 0 or 1, not `{text}`"),
            )),
        }
    }

    /// One of the named choices. If the parameter is absent, `default`; without a default, an error.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        default: Option<T>,
        choices: &[(&str, T)],
    ) -> Result<T, Problem> {
        let text = self.take(name);
        let found = match &text {
            None => default,
            Some(text) => choices
                .iter()
                .find(|(choice, _)| choice == text)
                .map(|&(_, value)| value),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|&(choice, _)| choice).collect();
            let given = text.map_or("missing".to_owned(), |text| format!("not `{text}`"));
            Problem::parameter(
                name,
                format!("expected one of {}; {given}", names.join(", ")),
            )
        })
    }

    /// `interval_ms`: the time between two records.
    pub(crate) fn interval(&mut self, default_ms: u64) -> Result<Duration, Problem> {
        self.number("interval_ms", default_ms, 0..=MAX_INTERVAL_MS)
            .map(Duration::from_millis)
    }

    /// Rejects every parameter that the handler did not take.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) if self.known.is_empty() => {
                Err(Problem::parameter(name, "this route takes no parameters"))
            }
            Some(name) => Err(Problem::parameter(
                name,
                format!("unknown; this route takes {}", self.known.join(", ")),
            )),
        }
    }

    fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.values.remove(name)
    }
}

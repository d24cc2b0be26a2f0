//! A figure and its target.

use std::fmt;

use serde::Serialize;

/// A figure and its target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// The measured value. Null in JSON if there is none.
    pub value: f64,
    /// The target.
    pub target: Target,
    /// Whether the value meets it.
    pub is_met: bool,
}

/// The target of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Exactly this value.
    Exactly(f64),
    /// At most this value.
    AtMost(f64),
    /// At least this value.
    AtLeast(f64),
}

pub(super) fn exactly(name: &'static str, value: usize, target: usize) -> Figure {
    let exact = Target::Exactly(target as f64);
    Figure { name, value: value as f64, target: exact, is_met: value == target }
}

pub(super) fn at_most(name: &'static str, value: f64, target: f64) -> Figure {
    Figure { name, value, target: Target::AtMost(target), is_met: value <= target }
}

pub(super) fn at_least(name: &'static str, value: f64, target: f64) -> Figure {
    Figure { name, value, target: Target::AtLeast(target), is_met: value >= target }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(value) => write!(f, "{value}"),
            Self::AtMost(value) => write!(f, "at most {value}"),
            Self::AtLeast(value) => write!(f, "at least {value}"),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_met { "met" } else { "MISSED" };
        let value = (self.value * 100.0).round() / 100.0;
        let target = self.target.to_string();
        writeln!(f, "  {:<44} {value:<10} {target:<14} {verdict}", self.name)
    }
}

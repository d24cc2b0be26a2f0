//! A request's query. It is parsed strictly: a mistyped filter must not make a delete match more
//! webhooks.

use std::{borrow::Cow, str::FromStr, time::Duration};

use shared::{
    applications::{event_type::EventType, id::EndpointId},
    clock::Timestamp,
    id::ReferenceId,
    status::Status,
    store::Filter,
};
use url::form_urlencoded;

use crate::{
    limits::MAX_OLDER_THAN_DAYS,
    problem::{FieldErrors, Problem, ProblemKind},
};

/// The parameter that requests the payload.
pub(crate) const INCLUDE: &str = "include";

/// Its value.
const PAYLOAD: &str = "payload";

const DAY_SECONDS: f64 = 86_400.0;

/// The parameters of a query. A parameter with an empty value, as in `?status=&page=`, counts as
/// missing.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    values: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The errors found so far.
    pub(crate) field_errors: FieldErrors,
}

impl<'a> Query<'a> {
    /// Parses the query. Unknown and repeated parameters are errors.
    pub(crate) fn parse(query: Option<&'a str>, known: &[&str]) -> Self {
        let mut field_errors = FieldErrors::default();
        let mut values: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                field_errors.add(&name, unknown(known));
            } else if values.iter().any(|(seen, _)| *seen == name) {
                field_errors.add(&name, "is repeated. Send it once.");
            } else {
                values.push((name, value));
            }
        }
        Self { values, field_errors }
    }

    /// A parameter's value, unless it is missing or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(seen, value)| seen == name && !value.is_empty())
            .map(|(_, value)| &**value)
    }

    /// An integer within `1..=max`.
    pub(crate) fn number(&mut self, name: &str, default: usize, max: usize) -> usize {
        let Some(text) = self.get(name) else { return default };
        match text.parse() {
            Ok(number) if (1..=max).contains(&number) => number,
            _ => {
                self.field_errors.add(name, format!("must be an integer from 1 to {max}."));
                default
            }
        }
    }

    /// `reference_id`.
    pub(crate) fn reference(&mut self) -> Option<ReferenceId> {
        let parsed = ReferenceId::from_str(self.get("reference_id")?);
        parsed.map_err(|invalid| self.field_errors.add("reference_id", invalid.to_string())).ok()
    }

    /// `endpoint_id`.
    pub(crate) fn endpoint(&mut self) -> Option<EndpointId> {
        let parsed = EndpointId::from_str(self.get("endpoint_id")?);
        parsed.map_err(|invalid| self.field_errors.add("endpoint_id", invalid.to_string())).ok()
    }

    /// `event_type`, of messages.
    pub(crate) fn event_type(&mut self) -> Option<EventType> {
        let parsed = EventType::from_str(self.get("event_type")?);
        parsed.map_err(|invalid| self.field_errors.add("event_type", invalid.to_string())).ok()
    }

    /// A time.
    pub(crate) fn time(&mut self, name: &str) -> Option<Timestamp> {
        let time = Timestamp::parse_rfc3339(self.get(name)?);
        if time.is_none() {
            let message = "must be an RFC 3339 time, such as 2026-01-31T12:00:00Z.";
            self.field_errors.add(name, message);
        }
        time
    }

    /// Whether `include` requests the payload.
    pub(crate) fn include_payload(&mut self) -> bool {
        match self.get(INCLUDE) {
            None => false,
            Some(PAYLOAD) => true,
            Some(_) => {
                self.field_errors.add(INCLUDE, "must be payload");
                false
            }
        }
    }

    /// `reference_id`, `status` and, if the call has it, `older_than_days`.
    pub(crate) fn filter(&mut self, now: Timestamp) -> Filter {
        Filter {
            reference: self.reference(),
            status: self.status(&[]),
            created_before: self.created_before(now),
        }
    }

    /// `status`. A list with further values names them in its error.
    pub(crate) fn status(&mut self, further: &[&str]) -> Option<Status> {
        let status = Status::from_name(self.get("status")?);
        if status.is_none() {
            let names = [&Status::ALL.map(Status::as_str)[..], further].concat().join(", ");
            self.field_errors.add("status", format!("must be one of {names}."));
        }
        status
    }

    fn created_before(&mut self, now: Timestamp) -> Option<Timestamp> {
        let text = self.get("older_than_days")?;
        match text.parse::<f64>() {
            Ok(days) if (0.0..=MAX_OLDER_THAN_DAYS).contains(&days) => {
                Some(now.minus(Duration::from_secs_f64(days * DAY_SECONDS)))
            }
            _ => {
                self.field_errors
                    .add("older_than_days", "must be a number from 0 to 36500, such as 7 or 0.5.");
                None
            }
        }
    }
}

fn unknown(known: &[&str]) -> String {
    if known.is_empty() {
        "is not a known parameter. This call has no parameters.".to_owned()
    } else {
        format!("is not a known parameter. Expected one of {}.", known.join(", "))
    }
}

/// Refuses every parameter, for calls that have none.
pub(crate) fn none(query: Option<&str>) -> Result<(), Problem> {
    Query::parse(query, &[]).field_errors.check()
}

/// Refuses a filter that matches everything.
pub(crate) fn check_filter(filter: &Filter, names: &str) -> Result<(), Problem> {
    if *filter == Filter::default() {
        return Err(Problem::new(
            ProblemKind::BadRequest,
            format!("At least one filter is required: {names}."),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["reference_id", "status", "older_than_days", "page"];

    fn field_errors(query: &str) -> String {
        let mut query = Query::parse(Some(query), &KNOWN);
        query.filter(Timestamp::from_millis(1_700_000_000_000));
        query.number("page", 1, 100);
        query
            .field_errors
            .check()
            .map_or_else(|problem| serde_json::to_string(&problem).unwrap(), |()| String::new())
    }

    #[test]
    fn an_empty_parameter_is_a_missing_one() {
        let mut query = Query::parse(Some("reference_id=&status=&older_than_days="), &KNOWN);
        assert_eq!(query.filter(Timestamp::default()), Filter::default());
        assert!(query.field_errors.check().is_ok());
        assert!(check_filter(&Filter::default(), "status").is_err());
    }

    #[test]
    fn invalid_parameters_are_named() {
        assert_eq!(
            field_errors("reference_id=a_b-1&status=failed&older_than_days=0.5&page=100"),
            ""
        );
        for (query, field) in [
            ("reference_id=a%20b", "reference_id"),
            ("status=done", "status"),
            ("older_than_days=-1", "older_than_days"),
            ("older_than_days=NaN", "older_than_days"),
            ("older_than_days=inf", "older_than_days"),
            ("page=0", "page"),
            ("page=101", "page"),
            ("page=x", "page"),
            ("page=1&page=2", "page"),
            ("stauts=failed", "stauts"),
        ] {
            assert!(
                field_errors(query).contains(&format!(r#"{{"field":"{field}""#)),
                "{query}: {}",
                field_errors(query)
            );
        }
        assert!(
            field_errors("status=done")
                .contains("pending, in_progress, retrying, delivered, failed")
        );
    }

    #[test]
    fn days_may_be_a_fraction() {
        let mut query = Query::parse(Some("older_than_days=0.5"), &KNOWN);
        let filter = query.filter(Timestamp::from_millis(86_400_000));
        assert_eq!(filter.created_before, Some(Timestamp::from_millis(43_200_000)));
    }
}

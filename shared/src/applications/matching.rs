//! Which endpoints a message goes to.

use super::{application::Application, event_type::EventType, id::EndpointId};
use crate::planted::{self, Bug};

/// The endpoints of a new message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The endpoints that it goes to: enabled, and they match. In the order of the document, each
    /// once.
    pub planned: Vec<EndpointId>,
    /// The endpoints that match and are disabled. Nothing is sent to them, then or later.
    pub off: Vec<EndpointId>,
}

impl Plan {
    /// Whether no endpoint matches, not even a disabled one. Then the message is not kept, unless
    /// the application says so.
    pub fn is_empty(&self) -> bool {
        self.planned.is_empty() && self.off.is_empty()
    }
}

/// Matches a message against an application as its document is now. The plan of a message is never
/// matched again.
///
/// It does not ask whether the application was deleted; the publisher's caller does
/// ([`Application::is_deleted`]). It has at most
/// [`MAX_ENDPOINTS`](super::application::MAX_ENDPOINTS) endpoints in both lists together.
pub fn match_message(application: &Application, event_type: &EventType) -> Plan {
    let matching = application.endpoints.iter().filter(|endpoint| endpoint.wants(event_type));
    let (mut enabled, mut disabled): (Vec<_>, Vec<_>) =
        matching.partition(|endpoint| endpoint.is_enabled());
    if planted::is(Bug::DisabledStillPlanned) {
        enabled.append(&mut disabled);
    }
    let ids = |endpoints: Vec<&super::endpoint::Endpoint>| {
        endpoints.into_iter().map(|endpoint| endpoint.id).collect()
    };
    Plan { planned: ids(enabled), off: ids(disabled) }
}

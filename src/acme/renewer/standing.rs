//! How certificates stand, for whoever looks.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::managed::Managed;
use crate::acme::schedule::Plan;
use crate::acme::state::State;
use crate::acme::storage::CertId;

/// How a certificate stands, for whoever looks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// What it is kept as.
    pub id: CertId,
    /// It is served, and could not be saved.
    pub is_unsaved: bool,
    /// Its [`State`] in one word; `ordering` while an order is under way.
    pub state: &'static str,
    /// Failures in a row.
    pub fails: u32,
    /// What went wrong last.
    pub problem: Option<String>,
    /// When it is ordered next, in seconds since 1970; `None` while that waits for somebody.
    pub next_at: Option<i64>,
    /// Why it is ordered then.
    pub why: &'static str,
}

/// What the renewer knows of its certificates, replaced whole.
pub type Standings = Arc<ArcSwap<Vec<Standing>>>;

impl Standing {
    pub(super) fn new(id: &CertId, managed: &Managed, plan: &Plan, parked: Option<i64>) -> Self {
        let record = &managed.record;
        let at = plan.at.max(parked.unwrap_or(plan.at));
        Self {
            id: id.clone(),
            is_unsaved: managed.is_unsaved,
            state: if managed.is_ordering {
                State::Ordering.as_str()
            } else {
                record.state.as_str()
            },
            fails: record.fails,
            problem: record.last_problem.as_ref().map(|problem| problem.detail.clone()),
            next_at: (at < i64::MAX).then_some(at),
            why: plan.why.as_str(),
        }
    }
}

//! Finds out, in storage, whether this cluster acts for a site, and writes it down if it does.
//!
//! The mark is written first, by ETag; the VMs' fences follow, each when its VM is looked at. Whoever dies in between
//! leaves a mark with a higher term than the fences, by which the next one sees what is left to do.

use crate::api::annotation;
use crate::api::hyperv_site::HyperVSite;
use crate::blob::Account;
use crate::controller::context::Context;
use crate::controller::documents::{self, Held};
use crate::controller::site::report::Owner;
use crate::ids::ObjectName;
use crate::replica::{names, owner};
use crate::report::Fault;

/// Who acts for a site.
pub enum Settled {
    Ours { term: u64 },
    Other(Owner),
}

/// Claims, renews or takes over the site, or stands back. `fences` is the highest term that a fence was seen to have.
///
/// # Errors
/// If storage does not answer, or the mark was changed in between.
pub async fn settle(
    site: &HyperVSite,
    name: &ObjectName,
    context: &Context,
    account: &dyn Account,
    container: &str,
    fences: u64,
) -> Result<Settled, Fault> {
    let container = account.container(container);
    let held: Option<Held<owner::Owner>> =
        documents::load(container.as_ref(), names::OWNER).await?;
    let seen = held.as_ref().map(|held| owner::Seen {
        owner: held.value.clone(),
        last_modified: held.last_modified,
        now: held.date,
    });
    let annotations = site.metadata.annotations.as_ref();
    let us = owner::Candidate {
        cluster: &context.cluster,
        site: name,
        take_over_from: annotations
            .and_then(|all| all.get(annotation::TAKE_OVER))
            .map(String::as_str),
        fences,
    };
    let ours = match (owner::decide(us, seen.as_ref()), held) {
        (owner::Action::StandBack { owner, silent }, _) => {
            return Ok(Settled::Other(Owner::Other {
                reign: owner.reign(),
                cluster: owner.cluster,
                silent,
            }));
        }
        (owner::Action::Hold, held) => held.map_or(0, |held| held.value.term),
        (owner::Action::Write { owner, takes_over }, held) => {
            let term = owner.term;
            match held {
                Some(held) => {
                    documents::replace(container.as_ref(), names::OWNER, &held, owner).await?
                }
                None => documents::create(container.as_ref(), names::OWNER, owner).await?,
            };
            if takes_over {
                tracing::warn!(site = %name, term, "took the site over from another cluster");
            }
            term
        }
    };
    Ok(Settled::Ours { term: ours })
}

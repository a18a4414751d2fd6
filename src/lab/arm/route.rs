//! Which resource, or what of it, a path means. Case does not count in any part.

/// A request's path, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Group {
        group: String,
    },
    /// All resources of a group, by filter.
    GroupResources {
        group: String,
    },
    Permissions,
    Skus,
    Usages {
        compute: bool,
    },
    /// The status of an operation, or its result.
    Operation {
        id: String,
    },
    /// One resource; its id is the path.
    Resource {
        id: String,
        kind: String,
    },
    /// Something that is done to a resource, or asked of it.
    Action {
        id: String,
        kind: String,
        action: String,
    },
    /// All of a type in a group.
    List {
        group: String,
        kind: String,
    },
    Unknown,
}

/// What is below a resource and is no resource.
const ACTIONS: [&str; 8] = [
    "start",
    "poweroff",
    "deallocate",
    "restart",
    "begingetaccess",
    "endgetaccess",
    "checkipaddressavailability",
    "instanceview",
];

pub(crate) fn route(path: &str) -> Route {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let lower: Vec<String> = parts.iter().map(|part| part.to_ascii_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    match lower.as_slice() {
        ["subscriptions", _, "resourcegroups", _, below @ ..] => in_group(&parts, below),
        ["subscriptions", _, "providers", below @ ..] => in_subscription(below),
        _ => Route::Unknown,
    }
}

fn in_subscription(below: &[&str]) -> Route {
    match below {
        ["microsoft.compute", "skus"] => Route::Skus,
        [namespace, "locations", _, "usages"] => Route::Usages {
            compute: *namespace == "microsoft.compute",
        },
        [_, "locations", _, "operations", id] => Route::Operation {
            id: (*id).to_owned(),
        },
        _ => Route::Unknown,
    }
}

/// `parts` is the whole path as it is written, `below` what follows the group, in lower case.
fn in_group(parts: &[&str], below: &[&str]) -> Route {
    let prefix = |count: usize| format!("/{}", parts[..count].join("/"));
    let kind = |namespace: &str, types: &str| format!("{namespace}/{types}");
    match below {
        [] => Route::Group { group: prefix(4) },
        ["resources"] => Route::GroupResources { group: prefix(4) },
        ["providers", "microsoft.authorization", "permissions"] => Route::Permissions,
        ["providers", namespace, types] => Route::List {
            group: prefix(4),
            kind: kind(namespace, types),
        },
        ["providers", namespace, types, _] => Route::Resource {
            id: prefix(8),
            kind: kind(namespace, types),
        },
        ["providers", namespace, types, _, action] if ACTIONS.contains(action) => Route::Action {
            id: prefix(8),
            kind: kind(namespace, types),
            action: (*action).to_owned(),
        },
        ["providers", namespace, types, _, child, _] => Route::Resource {
            id: prefix(10),
            kind: format!("{namespace}/{types}/{child}"),
        },
        _ => Route::Unknown,
    }
}

/// What resources are found by.
pub(crate) fn key(id: &str) -> String {
    id.trim_end_matches('/').to_ascii_lowercase()
}

/// The group of a resource's id.
pub(crate) fn group_of(id: &str) -> String {
    let parts: Vec<&str> = id.split('/').take(5).collect();
    parts.join("/")
}

/// The last part of an id.
pub(crate) fn name_of(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_the_same_in_any_case() {
        let disk = "/subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/disks/D1";
        let expected = Route::Resource {
            id: disk.to_owned(),
            kind: "microsoft.compute/disks".to_owned(),
        };
        assert_eq!(route(disk), expected);
        let access =
            route(&format!("{disk}/beginGetAccess").replace("resourceGroups", "RESOURCEGROUPS"));
        assert!(matches!(access, Route::Action { action, .. } if action == "begingetaccess"));
        assert_eq!(route("/subscriptions/S"), Route::Unknown);
        assert_eq!(route("/"), Route::Unknown);
    }
}

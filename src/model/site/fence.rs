//! A node's fence device: what the others ask to switch it off.

use super::written;
use crate::base::error::Result;
use crate::base::name::NodeName;
use crate::model::Source;
use std::collections::BTreeMap;

/// The fence agent, under `agent`, and its options, such as `ip` and `username`. Never a password: that is a secret.
pub type Fence = BTreeMap<String, String>;

/// The device as written, checked.
///
/// # Errors
/// No agent, or a password, with the line and what to write.
pub(super) fn read(source: &Source<'_>, name: &NodeName, node: &written::Node) -> Result<Option<Fence>> {
    let Some(written) = &node.fence else { return Ok(None) };
    let error = |cause: String| source.error(&written.span(), cause);
    let fence = written.get_ref();
    let plain =
        |agent: &String| agent.starts_with("fence_") && agent.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c));
    if !fence.get("agent").is_some_and(plain) {
        return Err(error(format!("the fence device of {name} names no agent"))
            .next("write agent = \"fence_…\", such as fence_ipmilan, beside its options"));
    }
    if let Some(key) = fence.keys().find(|key| key.contains("pass")) {
        return Err(error(format!("the fence device of {name} has `{key}`, and this file is no place for passwords"))
            .next("remove it; agents get the secret fence-password"));
    }
    Ok(Some(fence.clone()))
}

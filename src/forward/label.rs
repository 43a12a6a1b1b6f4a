//! The label that tells uplinks apart in metrics.

use prometheus_client::encoding::EncodeLabelSet;

/// `uplink="name"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct UplinkLabel {
    pub(super) uplink: String,
}

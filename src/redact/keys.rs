//! The of documents, log lines and metrics that may leave, by name. Everything else is left out.

/// What is done with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Numbers as they are, as free text.
    Show,
    /// A name or an address: a tag stands for it, whatever it looks like.
    Tag,
    /// A map whose keys are names; what is below goes by its own fields.
    Names,
    /// A map from causes to counts.
    Counts,
    Withhold,
}

/// What is done with the field of this name.
pub fn rule(field: &str) -> Rule {
    let listed = |list: &str| list.split_ascii_whitespace().any(|known| known == field);
    match field {
        _ if listed(SHOWN) => Rule::Show,
        _ if listed(TAGGED) => Rule::Tag,
        _ if listed(NAMED) => Rule::Names,
        _ if listed(COUNTED) => Rule::Counts,
        _ => Rule::Withhold,
    }
}

/// Counts, sizes, times, states, causes. No reading, nothing of a heart, no name.
const SHOWN: &str = "
    accept_unknown accounts acknowledged act action active adapter adapters adds_up admission advert_s adverts after again
    age_s ahead_ms allow_remote anchor_age_s anonymous applied at audit auth_failures auth_failures_per_minute
    available_bytes aws backlog ballast_bytes batch batches before began behind bind ble blobs bluetooth boot boots
    boots_waiting broadcast buffers_left_bytes bytes bytes_after bytes_before bytes_per_second ca cause certificate
    check checks client_ca clock code commit commit_interval commits configuration configured confirmed_s
    connect connected connections connections_per_address cores count counts cpu_seconds created_ms
    credentials cursor damage damaged days_left dedupe_window delay delivered delivered_batches
    delivered_bytes delivered_readings denied device_future device_metrics device_past doubted dropped drops
    duplicate duplicates durable echoes enabled encoding encrypted encryption end ended entries epoch erased error
    error_ms errors evicted expired expires external external_brokers facts failing_s failure faults fields file
    files filters findings fine first fixed_ms floor_ms format found free_bytes from fstype gaps gateway_version
    gatt generation generation_age generation_size generations given gone grace guess_ms guessed handshake
    handshakes head health heard heard_s http in_flight inodes inodes_free interval iot iot_credentials journal
    keep kernel key_file kind kinds lakes last last_error lasted_ms lasted_s late left left_behind level limit
    limits link links listener listening live live_messages live_s load log lost machine
    manifest mapping mappings max_age max_bytes max_devices max_member members memory message messages
    model mount mqtt n new_per_second next next_action next_generation oldest_s on open open_fds
    options os own packet_size pair panicked password_file path patience patience_left_s paused phase pid policy
    port possible_duplicates priority privacy problems process profile proxy_credentials_file pseudonyms publishes
    publishes_per_second quarantine quarantine_bytes quarantined queued queued_members queued_readings quota
    quota_bytes raised reach readings reason received reconnecting_clients reconnects_per_minute record
    records refused region release reload remedy remote repeat replay report require_client_certificate required
    resident_bytes restart restart_bluetooth restarts result revision rounds router_restarts run salvaged same_boot
    sealed seconds section severity shadow shutdown_grace silent_s size_bytes slots slowed sound sparse speed stage
    start_limit start_ms state state_dir status step steps streams sub subscribers subscriptions summaries summary
    suppressed swap_bytes synced taken tally text thinned thinned_generations threads throttled_addresses time
    time_ms timeout tls tls_bind told too_fast took_ms total total_bytes trouble trust unacknowledged unattributed
    unavailable uncertainty_s unfinished_handshakes unmapped unnamed uplinks uptime_ms uptime_s use used_bytes
    verdict version view waited_s waiting waits_for_clock wall_ms warnings wearables what when when_full why
    window_s wire_received_bytes wire_sent_bytes withheld worn wrong_secrets
";

/// Who, where and by which key.
const TAGGED: &str = "
    address alias allowed broker client client_id device endpoint endpoint_url gateway hash host id ids key keys
    login maker name new_one_refused polar_id proxy pseudonym role_alias rule serial site source spool stream
    thing topic topics uplink url username user certificate_id
";

const NAMED: &str = "devices";

const COUNTED: &str = "refused_connects missing";

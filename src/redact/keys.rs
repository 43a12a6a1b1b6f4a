//! The fields of documents, log lines and metrics that may leave, by name. Everything else is left out.

/// What is done with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Numbers as they are, text as free text.
    Show,
    /// A name or an address: a tag stands for it, whatever it looks like.
    Tag,
    /// A map whose keys are names; what is below goes by its own fields.
    Names,
    Withhold,
}

/// What is done with the field of this name.
pub fn rule(field: &str) -> Rule {
    let listed = |list: &str| list.split_ascii_whitespace().any(|known| known == field);
    match field {
        _ if listed(SHOWN) => Rule::Show,
        _ if listed(TAGGED) => Rule::Tag,
        _ if listed(NAMED) => Rule::Names,
        _ => Rule::Withhold,
    }
}

/// Counts, sizes, times, states, causes. No reading, nothing of a heart, no name.
const SHOWN: &str = "
    accept_unknown accounts acknowledged act adapters adds_up admission advert_s adverts after age_s again ahead_ms allow_remote
    anchor_age_s anonymous applied at audit auth_failures auth_failures_per_minute aws backlog ballast_bytes batch batches
    began behind bind ble blobs bluetooth boot boots boots_waiting broadcast buffers_left_bytes bytes bytes_after bytes_before
    bytes_per_second ca cause certificate checks client_ca clock code commit commit_interval commits configuration configured
    confirmed_s connect connected connections connections_per_address count counts cpu_seconds created_ms credentials cursor
    damage damaged days_left dedupe_window delay delivered delivered_batches delivered_bytes delivered_readings denied
    device_future device_metrics device_past doubted drops dropped duplicate duplicates durable echoes enabled encoding
    encrypted encryption end ended entries epoch error error_ms evicted expires external external_brokers facts failing_s
    failure faults file filters first fixed_ms floor_ms format found free_bytes from gaps gateway_version gatt generation
    generation_age generation_size generations given gone grace guess_ms guessed handshake handshakes head health heard
    heard_s http in_flight interval iot iot_credentials journal keep key_file kind kinds lakes last last_error lasted_ms
    lasted_s late left left_behind level limit limits link links listener listening live live_messages live_s load log
    lost mapping mappings max_age max_bytes max_devices max_member members memory message messages missing mqtt
    n new_per_second next next_generation oldest_s on open open_fds own packet_size pair panicked password_file path patience patience_left_s
    paused phase pid policy port possible_duplicates priority privacy problems process profile proxy_credentials_file pseudonyms
    publishes publishes_per_second quarantine quarantine_bytes quarantined queued queued_members queued_readings quota quota_bytes
    raised reach readings reason received reconnecting_clients reconnects_per_minute record records refused
    refused_connects region release remedy remote repeat replay report require_client_certificate required resident_bytes restart
    restart_bluetooth revision router_restarts rounds run salvaged sealed seconds severity shadow shutdown_grace
    silent_s slots slowed sound sparse speed stage start_ms state state_dir status step steps streams subscribers
    subscriptions summaries suppressed synced taken tally  thinned thinned_generations threads throttled_addresses time time_ms timeout
     tls tls_bind told too_fast took_ms total trouble trust unacknowledged unattributed unavailable uncertainty_s unfinished_handshakes
    unmapped unnamed uplinks uptime_ms uptime_s use  used_bytes verdict version view waited_s waiting waits_for_clock wall_ms wearables what
     when when_full why window_s wire_received_bytes wire_sent_bytes withheld wrong_secrets worn
    fstype options size_bytes available_bytes inodes inodes_free mount model kernel machine os cores total_bytes swap_bytes
    load_1 load_5 load_15 files  active sub result restarts main_code main_status start_limit fields text 
    section reading summary counts_ findings fine warnings errors action next_action  check data
    needs_restart reload  before clean same_boot
";

/// Who, where and by which key.
const TAGGED: &str = "
    adapter address alias allowed broker client client_id device endpoint endpoint_url gateway hash host id ids key keys
    login maker name new_one_refused polar_id proxy pseudonym role_alias rule serial site source spool stream
    thing topic topics uplink url username user certificate_id
";

const NAMED: &str = "devices";

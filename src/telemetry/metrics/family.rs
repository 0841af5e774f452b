//! Every metric there is: name, kind, labels and meaning. `docs/metrics.md` says the same, and a
//! test compares them.

/// One metric, of which there is a series per set of label values.
#[derive(Debug)]
pub struct Family {
    /// `wardgate_<noun>_<unit>[_total]`, or Prometheus' own `process_*`.
    pub name: &'static str,
    /// What kind of value it has.
    pub kind: Kind,
    /// The labels of its series. Their values come from the configuration or from a fixed list,
    /// never from a client.
    pub labels: &'static [&'static str],
    /// One phrase, without a backslash or a line break.
    pub help: &'static str,
}

/// What kind of value a metric has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only rises, from the start of the process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Declares the families, and [`ALL`] of them in this order.
macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) static $id: Family = Family {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)*
        /// Every metric there is.
        pub static ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    REQUESTS: Counter "wardgate_requests_total" ["site", "route", "code"]
        "Requests that ended, by the class of their status; none where there was no answer";
    DURATION: Histogram "wardgate_request_duration_seconds" ["site", "route"]
        "Time from a request's first byte to the end of its answer";
    FIRST_BYTE: Histogram "wardgate_request_first_byte_seconds" ["site", "route"]
        "Time from a request's first byte to the head of the backend's answer";
    REQUEST_BYTES: Counter "wardgate_request_body_bytes_total" ["site", "route"]
        "Bytes of request bodies received";
    RESPONSE_BYTES: Counter "wardgate_response_body_bytes_total" ["site", "route"]
        "Bytes of response bodies sent";
    IN_FLIGHT: Gauge "wardgate_requests_in_flight" ["site", "route"]
        "Requests being served; without a site, those whose head is not judged yet";
    REFUSED: Counter "wardgate_requests_refused_total" ["error"]
        "Requests refused before their site was known, by error";
    FAILED: Counter "wardgate_requests_failed_total" ["error"]
        "Requests of a known site that were not answered as meant, by error";
    ATTEMPTS: Counter "wardgate_upstream_attempts_total" ["pool", "endpoint", "outcome"]
        "Attempts to have a request answered by a server";
    RETRIES: Counter "wardgate_upstream_retries_total" ["pool"]
        "Attempts after a request's first";
    CONNECT: Histogram "wardgate_upstream_connect_duration_seconds" ["pool"]
        "Time to connect to a server, with TLS; kept connections are not counted";
    UPSTREAM_FIRST_BYTE: Histogram "wardgate_upstream_first_byte_seconds" ["pool"]
        "Time from the beginning of an attempt to the head of its answer";
    HEALTHY: Gauge "wardgate_upstream_endpoint_healthy" ["pool", "endpoint", "address"]
        "1 when the checks of a server's address pass, 0 when they do not; absent without a verdict";
    ENDPOINT_IN_FLIGHT: Gauge "wardgate_upstream_endpoint_requests_in_flight"
        ["pool", "endpoint", "address"]
        "Requests that a server's address is answering";
    CONNECTIONS: Gauge "wardgate_connections" ["listener"]
        "Client connections that are open";
    ACCEPTED: Counter "wardgate_connections_accepted_total" ["listener"]
        "Client connections accepted, those refused included";
    TURNED_AWAY: Counter "wardgate_connections_refused_total" ["listener"]
        "Client connections closed at once, because there were too many";
    HANDSHAKES: Counter "wardgate_tls_handshakes_total" ["listener", "version"]
        "TLS handshakes that succeeded, by version";
    HANDSHAKE_FAILURES: Counter "wardgate_tls_handshake_failures_total" ["listener", "reason"]
        "TLS handshakes that failed, by reason";
    PROXY_HEADERS: Counter "wardgate_proxy_headers_total" ["listener", "result"]
        "Connections that had to begin with a PROXY header, by what came of it";
    NOT_AFTER: Gauge "wardgate_certificate_not_after_timestamp_seconds" ["certificate"]
        "End of a served certificate's validity, in seconds since 1970";
    OCSP_RESPONSES: Counter "wardgate_ocsp_responses_total" ["result"]
        "Questions to the OCSP responders of certificates, by what came of them";
    STAPLED: Gauge "wardgate_ocsp_stapled_certificates" []
        "Certificates that are served with an OCSP response";
    CERTIFICATE_HEALTH: Gauge "wardgate_certificate_health" ["certificate", "health"]
        "Always 1; the label tells how a served certificate is, by what is left of its lifetime";
    CRL_NEXT_UPDATE: Gauge "wardgate_crl_next_update_timestamp_seconds" ["file", "issuer"]
        "When a list of revoked client certificates is over, in seconds since 1970; its CA's clients are refused from then on";
    CRL_HEALTH: Gauge "wardgate_crl_health" ["file", "issuer", "health"]
        "Always 1; the label tells how a list of revoked client certificates is, by what is left of its lifetime";
    STAND_IN: Gauge "wardgate_certificate_stand_in" ["certificate"]
        "1 while the local CA stands in for a certificate that an authority has not issued yet, else 0";
    ORDER_STATE: Gauge "wardgate_certificate_state" ["certificate", "state"]
        "Always 1; the label tells where the order of an authority's certificate stands";
    RENEWAL_TIME: Gauge "wardgate_certificate_renewal_timestamp_seconds" ["certificate", "why"]
        "When a certificate is ordered next, in seconds since 1970, and why; absent while that waits for somebody";
    CONSECUTIVE_FAILURES: Gauge "wardgate_certificate_consecutive_failures" ["certificate"]
        "Tries in a row that yielded no certificate";
    UNSAVED: Gauge "wardgate_certificate_unsaved" ["certificate"]
        "1 while a certificate is served that could not be saved, else 0";
    RENEWALS: Counter "wardgate_certificate_renewals_total" ["authority", "result", "why"]
        "Tries to obtain a certificate, by how they ended and why they were made";
    STORE_ERRORS: Counter "wardgate_certificate_store_errors_total" ["op"]
        "Times that something about certificates could not be kept or read, by what";
    CHALLENGE_HITS: Counter "wardgate_acme_challenge_hits_total" ["type", "result"]
        "Probes of authorities, and of others who ask for challenges";
    ACME_REQUESTS: Counter "wardgate_acme_requests_total" ["authority", "endpoint", "code"]
        "Requests to an authority, by its answer's status; none where there was no answer";
    ACME_DURATION: Histogram "wardgate_acme_request_duration_seconds" ["authority", "endpoint"]
        "Time from a request to an authority to the end of its answer";
    ORDER_DURATION: Histogram "wardgate_acme_order_duration_seconds" ["authority"]
        "Time from the beginning of an order to its certificate";
    LIMITED_UNTIL: Gauge "wardgate_acme_limited_until_timestamp_seconds" ["authority", "scope"]
        "End of the last rate limit that an authority told, in seconds since 1970, by what it concerns";
    REPLACES_DROPPED: Counter "wardgate_acme_replaces_dropped_total" ["authority"]
        "Orders placed without naming the certificate they replace, because the authority refused it";
    CLOCK_SKEW: Gauge "wardgate_acme_clock_skew_seconds" ["authority"]
        "How far an authority's clock is ahead of ours by its last answer; negative when it is behind";
    DELIVERIES: Counter "wardgate_acme_event_deliveries_total" ["hook", "result"]
        "Tries to tell a hook of an event, by kind of hook and how they ended";
    EVENTS_PENDING: Gauge "wardgate_acme_events_pending" []
        "Events that some hook has not been told of yet";
    FLEET_REACHABLE: Gauge "wardgate_storage_redis_reachable" []
        "1 while the Redis of `storage:` can be reached, else 0; absent without one";
    GENERATION: Gauge "wardgate_config_generation" []
        "Number of the configuration in force, from 1";
    RELOAD_SUCCESS: Gauge "wardgate_config_last_reload_success" []
        "1 unless the last configuration read was rejected, else 0";
    RELOAD_SUCCESS_TIME: Gauge "wardgate_config_last_reload_success_timestamp_seconds" []
        "When a configuration was last read and found good, in seconds since 1970";
    RELOADS: Counter "wardgate_config_reloads_total" ["outcome"]
        "Times the configuration was read again, by outcome";
    UPGRADES: Counter "wardgate_upgrades_total" ["outcome"]
        "Upgrades in place, by outcome: those that failed, and 1 where this process came by one";
    VERDICTS: Counter "wardgate_filter_verdicts_total" ["chain", "position", "filter", "verdict"]
        "What filters decided";
    LINES_DROPPED: Counter "wardgate_access_lines_dropped_total" []
        "Access lines that were not written";
    PANICS: Counter "wardgate_panics_total" []
        "Faults of the gateway that were contained";
    SHEDDING: Gauge "wardgate_shedding" []
        "1 while requests are refused because memory is short, else 0";
    MEMORY_LIMIT: Gauge "wardgate_memory_limit_bytes" []
        "Memory that `limits.memory` allows; absent without a limit";
    RELIEVED: Counter "wardgate_connections_relieved_total" []
        "Idle client connections closed because memory or descriptors were short";
    BUILD_INFO: Gauge "wardgate_build_info" ["version"]
        "Always 1; the labels tell what is running";
    CPU: Counter "process_cpu_seconds_total" []
        "Processor time used, user and system";
    RESIDENT: Gauge "process_resident_memory_bytes" []
        "Memory in use";
    VIRTUAL: Gauge "process_virtual_memory_bytes" []
        "Address space in use";
    OPEN_FDS: Gauge "process_open_fds" []
        "Open files and sockets; on Windows, handles";
    MAX_FDS: Gauge "process_max_fds" []
        "Most files and sockets that may be open";
    THREADS: Gauge "process_threads" []
        "Threads";
    START_TIME: Gauge "process_start_time_seconds" []
        "When the process started, in seconds since 1970";
    ALLOCATED: Gauge "wardgate_allocator_committed_bytes" []
        "Memory that the allocator holds, in use or ready for use";
    MOST_ALLOCATED: Gauge "wardgate_allocator_committed_peak_bytes" []
        "Most memory that the allocator has held";
}

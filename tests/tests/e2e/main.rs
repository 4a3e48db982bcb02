//! End to end: the real daemon, with real clients and servers, in namespaces of their own.
//!
//! Needs root. `cargo xtask test` runs it in a sandbox.

#![allow(unsafe_code, reason = "other users are system calls")]
#![allow(clippy::too_many_lines, reason = "a scenario is read from its begin to its end")]

mod api_crowd;
mod api_reload;
mod api_roles;
mod api_schema;
mod api_tls;
mod api_watch;
mod guide;
mod health_probes;
mod health_vip;
mod lab;
mod metrics_prometheus;
mod operations_agent;
mod operations_backups;
mod operations_changes;
mod operations_churn;
mod operations_circuit_breaker;
mod operations_cli;
mod operations_discovery_dns;
mod operations_discovery_file;
mod operations_doctor;
mod operations_down;
mod operations_drain;
mod operations_explain;
mod operations_health;
mod operations_latency;
mod operations_leave;
mod operations_lifecycle;
mod operations_log;
mod operations_options;
mod operations_privilege;
mod operations_restart;
mod operations_ring;
mod operations_slow_start;
mod operations_top;
mod operations_upgrade;
mod operations_verify;
mod operations_vips;
mod soak;
mod traffic_addresses;
mod traffic_answers;
mod traffic_counters;
mod traffic_distribution;
mod traffic_dns;
mod traffic_fragments;
mod traffic_hairpin;
mod traffic_host;
mod traffic_http;
mod traffic_icmp;
mod traffic_interfaces;
mod traffic_lost;
mod traffic_macs;
mod traffic_neighbours;
mod traffic_neighbours_lost;
mod traffic_network_changes;
mod traffic_policy;
mod traffic_services;
mod traffic_sizes;
mod traffic_tc;
mod traffic_tunnels;
mod traffic_vlan;
mod traffic_xdp_modes;
mod web_page;

//! `INFO`.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use latchwork::rmw::Store;

use super::{Context, Outcome, REDIS_VERSION};
use crate::request::Args;
use crate::server::Server;

/// How many of the most contended keys are shown.
const HOT_KEYS: usize = 5;

/// Writes one section of `INFO`.
type Section = fn(&Server, &mut String);

/// `INFO [section …]`, in Redis's format.
pub(super) fn info<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let wanted: Vec<Vec<u8>> = args
        .from(1)
        .iter()
        .map(<[u8]>::to_ascii_lowercase)
        .collect();
    let all = wanted.is_empty()
        || wanted
            .iter()
            .any(|name| matches!(&name[..], b"all" | b"default" | b"everything"));
    let sections: [(&str, Section); 7] = [
        ("Server", info_server),
        ("Clients", info_clients),
        ("Memory", info_memory),
        ("Persistence", info_persistence),
        ("Stats", info_stats),
        ("Keyspace", info_keyspace),
        ("Latchwork", info_latchwork),
    ];
    let mut text = String::new();
    for (name, write) in sections {
        if all
            || wanted
                .iter()
                .any(|wanted| wanted.eq_ignore_ascii_case(name.as_bytes()))
        {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            line(&mut text, format_args!("# {name}"));
            write(context.server, &mut text);
        }
    }
    context.reply.verbatim(text.as_bytes());
    Ok(())
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(content);
    text.push_str("\r\n");
}

fn info_server(server: &Server, text: &mut String) {
    let uptime = server.started.elapsed().as_secs();
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    line(text, format_args!("redis_version:{REDIS_VERSION}"));
    line(text, format_args!("redis_mode:standalone"));
    line(text, format_args!("server_name:kvnode"));
    line(
        text,
        format_args!("kvnode_version:{}", env!("CARGO_PKG_VERSION")),
    );
    line(
        text,
        format_args!("os:{} {}", std::env::consts::OS, std::env::consts::ARCH),
    );
    line(text, format_args!("arch_bits:{}", usize::BITS));
    line(text, format_args!("multiplexing_api:epoll"));
    line(text, format_args!("process_id:{}", std::process::id()));
    line(text, format_args!("tcp_port:{}", server.address.port()));
    line(text, format_args!("server_time_usec:{unix}"));
    line(text, format_args!("uptime_in_seconds:{uptime}"));
    line(text, format_args!("uptime_in_days:{}", uptime / 86_400));
    line(
        text,
        format_args!("io_threads_active:{}", server.options.io_threads),
    );
}

fn info_clients(server: &Server, text: &mut String) {
    line(
        text,
        format_args!("connected_clients:{}", server.places.current()),
    );
    line(
        text,
        format_args!("maxclients:{}", server.options.max_clients),
    );
    let blocked = server.store.stats().blocked;
    line(text, format_args!("blocked_clients:{blocked}"));
}

/// What the store counts for its keys and values, and what the kernel knows of this process.
fn info_memory(server: &Server, text: &mut String) {
    let used = server.store.stats().memory;
    line(text, format_args!("used_memory:{used}"));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, field) in [
        ("used_memory_rss", "VmRSS:"),
        ("used_memory_rss_peak", "VmHWM:"),
    ] {
        let found = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes = found.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        if let Some(kilobytes) = kilobytes {
            line(text, format_args!("{name}:{}", kilobytes * 1024));
        }
    }
    line(text, format_args!("maxmemory:0"));
    line(text, format_args!("maxmemory_policy:noeviction"));
}

/// Redis's fields where they have a meaning here: a save is a flush of all that has changed, and
/// the append-only file is the log. Then what the storage has to tell besides.
fn info_persistence(server: &Server, text: &mut String) {
    let ok = |is_ok| if is_ok { "ok" } else { "err" };
    let saves = &server.saves;
    let stats = server.storage.as_ref().map(|storage| storage.stats());
    let changes = stats.as_ref().map_or(0, |stats| {
        stats
            .log
            .last_lsn
            .get()
            .saturating_sub(stats.position.get())
    });
    line(text, format_args!("loading:0"));
    line(text, format_args!("rdb_changes_since_last_save:{changes}"));
    let running = saves.running();
    line(
        text,
        format_args!("rdb_bgsave_in_progress:{}", u8::from(running > 0)),
    );
    line(
        text,
        format_args!("rdb_last_save_time:{}", server.last_save()),
    );
    line(
        text,
        format_args!("rdb_last_bgsave_status:{}", ok(!saves.has_failed())),
    );
    line(
        text,
        format_args!("aof_enabled:{}", u8::from(stats.is_some())),
    );
    let Some(stats) = stats else {
        return;
    };
    line(
        text,
        format_args!("aof_last_write_status:{}", ok(stats.halt.is_none())),
    );
    for (name, number) in [
        ("log_last_record", stats.log.last_lsn.get()),
        ("log_durable_record", stats.log.durable_lsn.get()),
        ("log_pending_bytes", stats.log.pending_bytes),
        ("log_records_written", stats.log.records),
        ("log_bytes_written", stats.log.bytes),
        ("log_groups", stats.log.groups),
        ("log_groups_failed", stats.log.failed_groups),
        ("log_segments", stats.log.segments),
        ("segments", stats.segments),
        ("segment_bytes", stats.segment_bytes),
        ("segment_keys", stats.segment_entries),
        ("segments_not_removed", stats.failed_removals),
        ("unflushed_keys", stats.dirty_keys),
        ("unflushed_log_bytes", stats.dirty_bytes),
        ("flushes", stats.flush.finalized),
        ("flushes_going_on", stats.flush.pending),
        ("rotations", stats.rotations),
        ("merges", stats.merges),
        ("flush_failures", stats.failures),
        ("writes_refused", stats.refused),
    ] {
        line(text, format_args!("{name}:{number}"));
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let time = stats.log.commits.quantile(share).unwrap_or_default();
        let micros = time.as_nanos() as f64 / 1e3;
        line(text, format_args!("log_commit_usec_{name}:{micros:.3}"));
    }
    if let Some(halt) = stats.halt {
        line(text, format_args!("writes_refused_because:{halt}"));
    }
    if let Some(trouble) = stats.trouble {
        line(text, format_args!("last_flush_error:{trouble}"));
    }
}

fn info_stats(server: &Server, text: &mut String) {
    line(
        text,
        format_args!("total_connections_received:{}", server.clients.ever()),
    );
    line(
        text,
        format_args!(
            "total_commands_processed:{}",
            server.total(|counters| &counters.commands)
        ),
    );
    line(
        text,
        format_args!(
            "total_net_input_bytes:{}",
            server.total(|counters| &counters.received)
        ),
    );
    line(
        text,
        format_args!(
            "total_net_output_bytes:{}",
            server.total(|counters| &counters.sent)
        ),
    );
    line(
        text,
        format_args!(
            "rejected_connections:{}",
            server.turned_away.load(Ordering::Relaxed)
        ),
    );
    line(
        text,
        format_args!("keyspace_hits:{}", server.total(|counters| &counters.hits)),
    );
    line(
        text,
        format_args!(
            "keyspace_misses:{}",
            server.total(|counters| &counters.misses)
        ),
    );
    line(
        text,
        format_args!(
            "total_error_replies:{}",
            server.total(|counters| &counters.errors)
        ),
    );
    line(
        text,
        format_args!(
            "stalled_client_disconnections:{}",
            server.total(|counters| &counters.stalled)
        ),
    );
    let overflowed = server.total(|counters| &counters.overflowed);
    line(
        text,
        format_args!("client_output_buffer_limit_disconnections:{overflowed}"),
    );
}

/// Zero is Redis's own word for an unknown average.
fn info_keyspace(server: &Server, text: &mut String) {
    let stats = server.store.stats();
    if stats.keys > 0 {
        let (keys, expires) = (stats.keys, stats.expiring);
        line(
            text,
            format_args!("db0:keys={keys},expires={expires},avg_ttl=0"),
        );
    }
}

/// What the library tells of the latches and of the store. Times are in microseconds, and at most
/// twice the exact ones.
fn info_latchwork(server: &Server, text: &mut String) {
    let store = server.store.stats();
    for (name, count) in [
        ("store_keys", store.keys),
        ("store_keys_expiring", store.expiring),
        ("store_keys_expired", store.expired),
        ("store_sweeps", store.sweeps),
        ("store_sweeps_skipped", store.sweep_skipped),
        ("store_blocked", store.blocked),
    ] {
        line(text, format_args!("{name}:{count}"));
    }
    let Some(latches) = server.store.latch_stats() else {
        return;
    };
    for (name, count) in [
        ("latches_held", latches.held as u64),
        ("latch_waiters", latches.waiters as u64),
        ("latch_waits", latches.waits.count()),
        ("latch_hand_offs", latches.hand_offs),
        ("latch_barges", latches.barges),
        ("latch_combined", latches.combined),
        ("latch_timeouts", latches.timeouts),
        ("latch_busy", latches.busy),
        ("latches_leaked", latches.leaked),
    ] {
        line(text, format_args!("{name}:{count}"));
    }
    for (name, times) in [("wait", latches.waits), ("service", latches.services)] {
        for (quantile, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            let micros = times.quantile(share).unwrap_or_default().as_nanos() as f64 / 1e3;
            line(
                text,
                format_args!("latch_{name}_usec_{quantile}:{micros:.3}"),
            );
        }
    }
    for (number, key) in server.store.hottest().iter().take(HOT_KEYS).enumerate() {
        let (name, waits) = (key.name.escape_ascii(), key.waits);
        line(
            text,
            format_args!("hot_key_{number}:waits={waits},name={name}"),
        );
    }
}

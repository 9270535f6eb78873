//! Do the limits let anybody in, and do they fit together? Numbers, times, ranges of addresses.

use ipnet::IpNet;

use super::{File, Step, key, positive, service_key};
use crate::{Bytes, Config, ConfigError};

/// The rules of `[limits]`, and of every list of ranges.
pub(super) fn check(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    numbers(file, config)?;
    for (name, time) in [
        ("first_byte_time", config.limits.first_byte_time),
        ("handshake_time", config.limits.handshake_time),
        ("header_time", config.limits.header_time),
        ("idle_time", config.limits.idle_time),
    ] {
        positive(file, [key("limits"), key(name)], &format!("limits.{name}"), time)?;
    }
    ranges(file, &[key("trusted"), key("proxies")], &config.trusted.proxies)?;
    ranges(file, &[key("limits"), key("exempt")], &config.limits.exempt)?;
    for (name, service) in &config.service {
        ranges(file, &service_key(name, &["allow"]), &service.allow)?;
        ranges(file, &service_key(name, &["deny"]), &service.deny)?;
    }
    Ok(())
}

fn numbers(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let limits = &config.limits;
    let at = |name: &str| [key("limits"), key(name)];
    if limits.connections == 0 {
        let message = "`limits.connections` is 0, so nobody could connect";
        return file.fault(at("connections"), message, "write 1 or more, such as 20000");
    }
    if limits.connections_per_address > limits.connections {
        let (one, all) = (limits.connections_per_address, limits.connections);
        let message = format!("`limits.connections_per_address` is {one}, above `limits.connections` ({all})");
        let hint = "lower it, or write 0 for no limit by address";
        return file.fault(at("connections_per_address"), message, hint);
    }
    if limits.header_size < Bytes::kib(8) || limits.header_size > Bytes::mib(1) {
        let message = format!("`limits.header_size` is {}, outside of 8KiB to 1MiB", limits.header_size);
        return file.fault(at("header_size"), message, "write \"32KiB\", for example");
    }
    if limits.requests_per_second > 100_000 {
        let message = format!("`limits.requests_per_second` is {}, above 100000", limits.requests_per_second);
        let hint = "write 0 for no limit; it is for one address, not for all of them together";
        return file.fault(at("requests_per_second"), message, hint);
    }
    if limits.requests_burst > 0 && limits.requests_per_second == 0 {
        let message = "`limits.requests_burst` limits nothing without `limits.requests_per_second`";
        let hint = "write `requests_per_second` too, such as 50, or remove it";
        return file.fault(at("requests_burst"), message, hint);
    }
    Ok(())
}

/// A range that is written by an address in its midst is as likely one address as all of them.
fn ranges(file: &File<'_>, at: &[Step], ranges: &[IpNet]) -> Result<(), ConfigError> {
    let Some((index, range)) = ranges.iter().enumerate().find(|(_, range)| **range != range.trunc()) else {
        return Ok(());
    };
    let at: Vec<Step> = at.iter().cloned().chain([Step::Index(index)]).collect();
    let message = format!("`{range}` does not begin where its range begins");
    let hint = format!("write \"{}\", or \"{}\" for the one address", range.trunc(), IpNet::from(range.addr()));
    file.fault(at, message, hint)
}

//! How is bgproxy configured? With what a production configuration has: metrics, hosts, limits, both colors.

use std::fs;
use std::process::Command;

use super::{Participant, Who, free_address};
use crate::process::Running;
use crate::site::{HOST, Site, host};

pub(super) fn start(who: &Who, site: &Site) -> anyhow::Result<Participant> {
    let (clear, secure, admin) = (free_address()?, free_address()?, free_address()?);
    let home = site.home("bgproxy")?;
    fs::create_dir(home.join("state"))?;
    let (here, cert, key) = (home.display(), &site.certificate.cert, &site.certificate.key);
    let access = if who.setup.log { home.join("access.log").display().to_string() } else { "off".to_owned() };
    // Not said where there is none: an older build may not know the key.
    let rate = if who.setup.limited { "limits.requests_per_second = 100000\n" } else { "" };
    let mut config = format!(
        "workers = {}\nadmin.address = \"{admin}\"\ncontrol.socket = \"{here}/control.sock\"\n\
         state.dir = \"{here}/state\"\nlog.access = {access:?}\nlimits.connections = 8000\n\
         {rate}\
         [[listen]]\naddress = \"{clear}\"\n[[listen]]\naddress = \"{secure}\"\ntls = true\n\
         [[certificate]]\ncert = {cert:?}\nkey = {key:?}\n",
        who.setup.workers,
    );
    let (blue, green) = (site.socket("blue"), site.socket("green"));
    for service in 0..who.setup.services {
        let name = if service == 0 { "bench".to_owned() } else { format!("s{service}") };
        config += &format!(
            "[service.{name}]\nhosts = [{:?}]\n[service.{name}.backends]\nblue = {blue:?}\ngreen = {green:?}\n",
            host(service)
        );
        if who.setup.changing {
            // The others do not probe at all.
            config += &format!("[service.{name}.ready]\npasses = 1\n");
        }
    }
    if let Some(echo) = &who.setup.echo {
        config += &format!("[service.echo]\nhosts = [\"{HOST}\"]\npaths = [\"/echo\"]\nbackends.blue = {echo:?}\n");
    }
    let file = home.join("bgproxy.toml");
    fs::write(&file, &config)?;
    let process = Running::start(Command::new(&who.program).arg("-c").arg(file), &home, "bgproxy")?;
    Ok(Participant { who: who.clone(), process, clear, h2c: Some(clear), secure: Some(secure), home, config })
}

//! A client that writes and reads once a second while things break, and knows what was acknowledged to it.

use super::cloud::{CONTROLLERS, Cloud, VIP};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// A password for a database that lasts as long as the lab.
const PASSWORD: &str = "of-the-probe-alone";

/// A running probe, in the storage node's network; it ends with the value.
pub struct Probe<'a> {
    cloud: &'a Cloud,
    folder: PathBuf,
    process: Child,
}

/// Something that was tried.
struct Attempt {
    begin: f64,
    end: f64,
    what: String,
    number: u64,
    error: Option<String>,
}

impl<'a> Probe<'a> {
    /// Makes its database and starts it.
    pub fn start(cloud: &'a Cloud) -> Result<Self, String> {
        let folder = cloud.folder().join("probe");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let ca = folder.join("ca.pem");
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).map_err(|error| error.to_string());
        cloud.authority(&ca)?;
        write("probe.json", &json!({ "vip": VIP, "ca": ca, "probe": PASSWORD, "admin": cloud.password()? }).to_string())?;
        write("log", "")?;
        let sql = format!(
            "CREATE DATABASE IF NOT EXISTS probe; CREATE TABLE IF NOT EXISTS probe.rows_of_probe (number BIGINT PRIMARY KEY);
             CREATE USER IF NOT EXISTS probe@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON probe.* TO probe@'%';"
        );
        cloud.on(CONTROLLERS[0], &format!("mariadb -e \"{sql}\""))?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cluster/probe.py");
        let log = std::fs::File::create(folder.join("stderr")).map_err(|error| error.to_string())?;
        let mut command = cloud.command_via("storage01", &format!("exec /usr/bin/python3 {script} {}", folder.display()));
        let process =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().map_err(|error| error.to_string())?;
        Ok(Self { cloud, folder, process })
    }

    fn attempts(&self) -> Vec<Attempt> {
        let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let attempt = |line: &str| {
            let one: Value = serde_json::from_str(line).ok()?;
            Some(Attempt {
                begin: one["time"].as_f64()?,
                end: one["end"].as_f64()?,
                what: one["what"].as_str()?.to_string(),
                number: one["number"].as_u64()?,
                error: one["error"].as_str().map(str::to_string),
            })
        };
        text.lines().filter_map(attempt).collect()
    }

    /// The longest time since `begin` in which nothing was acknowledged, in seconds: of rows, and of users.
    pub fn gaps(&self, begin: f64) -> (f64, f64) {
        let attempts = self.attempts();
        let gap = |what: &str| {
            let good =
                attempts.iter().filter(|one| one.what == what && one.error.is_none() && one.end >= begin).map(|one| one.end);
            let mut times = vec![begin];
            times.extend(good);
            times.push(now());
            times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
        };
        (gap("row"), gap("user"))
    }

    /// Whether everything that was acknowledged is there; gives how much.
    pub fn nothing_missing(&self) -> Result<String, String> {
        // What is acknowledged while the lists are read is not in them.
        let acknowledged: Vec<(String, u64)> =
            self.attempts().into_iter().filter(|one| one.error.is_none()).map(|one| (one.what, one.number)).collect();
        let numbers =
            |text: &str| text.lines().filter_map(|line| line.rsplit('-').next()?.parse().ok()).collect::<BTreeSet<u64>>();
        let node = CONTROLLERS.iter().find(|node| self.cloud.on(node, "true").is_ok()).ok_or("no controller runs")?;
        let rows = numbers(&self.cloud.on(node, "mariadb -N -B -e 'SELECT number FROM probe.rows_of_probe'")?);
        let users =
            numbers(&self.cloud.on(node, "mariadb -N -B -e \"SELECT name FROM keystone.local_user WHERE name LIKE 'probe-%'\"")?);
        let missing: Vec<&(String, u64)> = acknowledged
            .iter()
            .filter(|(what, number)| !if what == "row" { rows.contains(number) } else { users.contains(number) })
            .collect();
        match &missing[..] {
            [] => Ok(format!("{} acknowledged", acknowledged.len())),
            some => {
                Err(format!("{} of {} acknowledged are gone: {:?}", some.len(), acknowledged.len(), &some[..some.len().min(5)]))
            }
        }
    }

    /// The last error of either kind since `begin`.
    pub fn last_error(&self, begin: f64) -> String {
        let attempts = self.attempts();
        let last = attempts.iter().rev().find(|one| one.error.is_some() && one.begin >= begin);
        last.and_then(|one| one.error.clone()).unwrap_or_default()
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The time, as seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

//! Services judge their own files before an image has them: what a check sees, what becomes of its words, when it runs again.
//!
//! The checks here are small shell commands in the small project; `tests/services.rs` has the services' own.

mod harness;

use harness::role::role;
use harness::{Ran, Test};
use serde_json::Value;
use std::fs;

/// The small project, built, with these checks at the end of an overlay's file.
fn checked(overlay: &str, checks: &str) -> Test {
    role().duplicate().append(&format!("overlays/{overlay}/overlay.toml"), checks)
}

/// A check of a shell command, with further keys.
fn shell(name: &str, command: &str, keys: &str) -> String {
    format!("\n[[check]]\nname = \"{name}\"\nrun = [\"sh\", \"-c\", '''{command}''']\n{keys}\n")
}

/// `OVERLAY/CHECK RESULT` of each check, `cached` behind those that did not run.
fn results(json: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let one = |check: &Value| {
        let cached = if check["cached"] == true { " cached" } else { "" };
        format!("{}/{} {}{cached}", text(&check["overlay"]), text(&check["check"]), text(&check["result"]))
    };
    json["checks"].as_array().unwrap().iter().map(one).collect()
}

/// What a check printed, in a project in which every line of it is a warning.
fn said(test: &Test) -> Vec<String> {
    let json = test.run(["check", "compute", "--json"]).json();
    json["checks"][0]["warnings"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_string()).collect()
}

/// The errors on stderr, without the steps before them.
fn errors(ran: &Ran) -> String {
    assert_eq!(ran.output.status.code(), Some(1), "{}", ran.stderr());
    let stderr = ran.stderr();
    stderr[stderr.find("error: ").unwrap()..].to_string()
}

const ALL_WARN: &str = "warn = ['.']";

#[test]
fn a_check_that_passed_is_remembered_with_its_warnings() {
    let test = checked("base", &shell("motd", "sed s,^,/etc/motd:1:, /etc/motd", "warn = ['This']"));
    let first = test.run(["check", "compute", "--json"]).json();
    assert_eq!(results(&first), ["base/motd ok"]);
    let again = test.run(["check", "compute"]);
    again.prints("compute: 1 checks\n  base/motd  1 warning     cached\n");
    assert_eq!(
        again.stderr(),
        "warning: overlays/base/templates/motd.tera:1: the check base/motd says: /etc/motd:1:This is a compute of small.\n"
    );
    // A build says it when the check runs, and then only to those who ask.
    let test = test.replace("overlays/base/templates/motd.tera", "This is", "This was");
    let warning =
        "warning: overlays/base/templates/motd.tera:1: the check base/motd says: /etc/motd:1:This was a compute of small.\n";
    assert!(test.run(["build", "compute"]).stderr().contains(warning));
    assert_eq!(test.run(["build", "compute"]).stderr(), "");
    assert!(test.run(["build", "compute", "-v"]).stderr().contains(warning));
}

#[test]
fn a_changed_file_runs_the_checks_of_its_overlay_and_of_those_that_read_it() {
    let test = checked("base", &shell("motd", "true", ""));
    let test = test.append("overlays/hosts/overlay.toml", &shell("hosts", "true", ""));
    let test = test.append("overlays/hosts/overlay.toml", &shell("both", "test -e /etc/motd", "reads = [\"/etc/mot*\"]"));
    test.run(["check", "compute"]).succeeds();
    let test = test.replace("overlays/base/templates/motd.tera", "This is", "This was");
    let planned = test.run(["plan", "compute"]).stdout();
    let to_run: Vec<&str> = planned.lines().filter(|line| line.ends_with("to run")).collect();
    assert_eq!(to_run, ["check base/motd    to run", "check hosts/both   to run"]);
    let json = test.run(["check", "compute", "--json"]).json();
    assert_eq!(results(&json), ["base/motd ok", "hosts/hosts ok cached", "hosts/both ok"]);
}

#[test]
fn a_check_sees_its_overlays_files_its_nodes_and_what_it_reads_and_no_other_overlays() {
    let look = "for file in /etc/motd /etc/issue /etc/hostname /etc/hosts /usr/lib/ostack/ostack-node; do test -s $file && echo $file; done; hostname";
    assert_eq!(
        said(&checked("base", &shell("look", look, ALL_WARN))),
        ["/etc/motd", "/etc/issue", "/etc/hostname", "/usr/lib/ostack/ostack-node", "compute01"]
    );
    let reads = "reads = [\"/etc/hosts\", \"/etc/host*\"]\n";
    assert_eq!(
        said(&checked("base", &shell("look", look, &format!("{reads}{ALL_WARN}")))),
        ["/etc/motd", "/etc/issue", "/etc/hostname", "/etc/hosts", "/usr/lib/ostack/ostack-node", "compute01"]
    );
}

#[test]
fn a_failed_check_names_the_line_that_its_program_names_in_that_programs_words() {
    let test = checked("base", &shell("motd", "echo fine; echo '/etc/motd:1: ERROR: no such day'", "fail = ['ERROR']"));
    assert_eq!(
        errors(&test.run(["build", "compute"])),
        "error: checking compute: overlays/base/templates/motd.tera:1: the check base/motd says:\n    \
         /etc/motd:1: ERROR: no such day\n  \
         next: correct what `sh -c echo fine; echo '/etc/motd:1: ERROR: no such day'` complains of; \
         the check is in overlays/base/overlay.toml:33\n"
    );
}

#[test]
fn every_check_that_fails_is_said_and_the_others_are_kept() {
    let test = checked("base", &shell("one", "echo bad; exit 3", ""));
    let test = test.append("overlays/base/overlay.toml", &shell("two", "true", ""));
    let test = test.append("overlays/hosts/overlay.toml", &shell("three", "exit 4", ""));
    let ran = test.run(["check", "compute"]);
    assert_eq!(
        errors(&ran),
        "error: checking compute: overlays/base/overlay.toml:33: the check base/one ended with exit code 3:\n    bad\n  \
         next: correct what `sh -c echo bad; exit 3` complains of\n\
         error: checking compute: overlays/hosts/overlay.toml:11: the check hosts/three ended with exit code 4:\n  \
         next: correct what `sh -c exit 4` complains of\n"
    );
    let json: Value = serde_json::from_slice(&test.run(["check", "compute", "--json"]).output.stdout).unwrap();
    assert_eq!(results(&json), ["base/one failed", "base/two ok cached", "hosts/three failed"]);
}

#[test]
fn a_failed_check_leaves_no_artifact_and_the_image_as_it_was() {
    let test = checked("base", &shell("never", "exit 1", "")).replace("overlays/base/templates/motd.tera", "This is", "This was");
    let index = fs::read(test.store().join("index.json")).unwrap();
    errors(&test.run(["build", "compute"]));
    assert_eq!(fs::read(test.store().join("index.json")).unwrap(), index);
    assert!(!test.project().join("out").exists());
}

#[test]
fn a_check_that_takes_too_long_is_ended_with_all_that_it_started() {
    let test =
        checked("base", &shell("slow", "echo begun; setsid sleep 987 & sleep 987", "timeout = 1\nany_exit = true\nfail = ['x']"));
    assert_eq!(
        errors(&test.run(["build", "compute"])),
        "error: checking compute: overlays/base/overlay.toml:33: the check base/slow did not end within 1 s:\n    begun\n  \
         next: correct what `sh -c echo begun; setsid sleep 987 & sleep 987` complains of\n"
    );
    assert_eq!(harness::leftovers::of(test.folder()), Vec::<String>::new());
}

#[test]
fn a_check_has_no_network_but_a_loopback_interface() {
    let look =
        "cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '; tail -n +2 /proc/net/route; cat /proc/sys/net/ipv4/ip_nonlocal_bind";
    assert_eq!(said(&checked("base", &shell("look", look, ALL_WARN))), ["lo", "1"]);
}

#[test]
fn a_check_runs_as_its_account_with_its_groups_and_cannot_write_what_that_may_not() {
    let keys = format!("user = \"man\"\n{ALL_WARN}");
    let look = "id -u; id -G; test -w /etc/motd || echo read-only; cat /etc/issue 2>&1 | sed 's/.*: //'";
    assert_eq!(said(&checked("base", &shell("who", look, &keys))), ["6", "12", "read-only", "Permission denied"]);
}

#[test]
fn an_account_that_is_not_there_is_an_error_with_its_line() {
    let test = checked("base", &shell("who", "true", "user = \"nobody-at-all\""));
    assert_eq!(
        errors(&test.run(["build", "compute"])),
        "error: running the check base/who: running `sh -c true` in the image's root: overlays/base/overlay.toml:33: \
         the root has no account `nobody-at-all`\n  next: name one of the role's packages' or overlays'\n"
    );
}

#[test]
fn secrets_are_dummies_of_the_right_form() {
    let secret = "\n[[secret]]\nname = \"door\"\n\n[[secret]]\nname = \"gate\"\nkind = \"uuid\"\n\n[[file]]\npath = \"/etc/door\"\n\
                  content = \"@ostack-secret:door:value@ @ostack-secret:gate:value@\\n\"\nmode = \"0640\"\n";
    let test = checked("base", &(secret.to_string() + &shell("door", "cat /etc/door", ALL_WARN)));
    let [line] = &said(&test)[..] else { panic!("one line") };
    let (door, gate) = line.split_once(' ').unwrap();
    assert!(door.len() == 32 && door.chars().all(|c| c.is_ascii_alphanumeric()), "{door}");
    assert_eq!(gate.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
}

#[test]
fn what_a_check_runs_may_be_a_template_and_its_conditions_count() {
    let checks = shell("name", "echo {{ site.name }} {{ param.greeting }}", ALL_WARN)
        + &shell("never", "exit 1", "when = \"role == 'controller'\"")
        + &shell("elsewhere", "exit 1", "release = \"other\"");
    assert_eq!(said(&checked("base", &checks)), ["small Hello"]);
}

#[test]
fn a_state_directory_that_the_image_lacks_is_there_as_declared() {
    let state = "\n[[state]]\npath = \"/var/cache/man/new\"\nclass = \"cache\"\nowner = \"root:adm\"\nmode = \"0750\"\n";
    let look = "stat -c '%U:%G %a %n' /var/cache/man/new /var/cache";
    let test = checked("base", &(state.to_string() + &shell("state", look, ALL_WARN)));
    assert_eq!(said(&test), ["root:adm 750 /var/cache/man/new", "root:root 755 /var/cache"]);
}

#[test]
fn checking_leaves_nothing_behind() {
    let test = checked("base", &shell("write", "echo x > /etc/motd; echo x > /var/lib/new; sleep 600 &", ""));
    test.run(["check", "compute"]).succeeds();
    assert_eq!(harness::leftovers::of(test.folder()), Vec::<String>::new());
    let scratch = fs::read_dir(test.store().join("ostack/scratch")).unwrap().count();
    assert_eq!(scratch, 0);
}

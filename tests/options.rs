//! What a site's options do: the safe default, and the guide's way with a warning.
//!
//! The cases are data: an option, a file of a node, and the line there without the option and with it. `-` stands for a file
//! that is not there.

mod harness;

use harness::Test;
use std::path::Path;

/// `option = value | release | node | file | what lines begin with | the lines as they are safe | as the guide has them`
const CASES: &str = r#"
tls = false | epoxy-debian13 | controller01 | /root/.admin-openrc | export OS_AUTH_URL | export OS_AUTH_URL=https://172.16.181.30:5000/v3 | export OS_AUTH_URL=http://172.16.181.30:5000/v3
tls = false | train-centos7 | controller01 | /etc/haproxy/haproxy.cfg | bind 172.16.181.30:5000 | bind 172.16.181.30:5000 ssl crt /etc/haproxy/tls/vip.pem | bind 172.16.181.30:5000
internal_tls = false | epoxy-debian13 | controller01 | /etc/default/etcd | ETCD_LISTEN_PEER_URLS | ETCD_LISTEN_PEER_URLS=https://172.16.181.31:2380 | ETCD_LISTEN_PEER_URLS=http://172.16.181.31:2380
internal_tls = false | epoxy-debian13 | controller01 | /etc/default/keystone | DAEMON_ARGS= | DAEMON_ARGS="--https-socket 172.16.181.31:5000,/etc/keystone/tls/node.pem,/etc/keystone/tls/node.key --ini /etc/keystone/keystone-uwsgi.ini" | DAEMON_ARGS="--http-socket 172.16.181.31:5000 --ini /etc/keystone/keystone-uwsgi.ini"
internal_tls = false | train-centos7 | controller01 | /etc/haproxy/haproxy.cfg | server controller01 172.16.181.31:567 | server controller01 172.16.181.31:5671 check inter 10s rise 2 fall 5 | server controller01 172.16.181.31:5672 check inter 10s rise 2 fall 5
firewall = false | epoxy-debian13 | compute01 | /etc/nftables.conf | chain | chain input {; chain forward { | -
firewall = false | train-centos7 | compute01 | /etc/sysconfig/nftables.conf | chain | chain input { | -
mandatory_access_control = false | train-centos7 | storage01 | /etc/selinux/config | SELINUX= | SELINUX=enforcing | SELINUX=disabled
mandatory_access_control = false | epoxy-debian13 | storage01 | /etc/systemd/system/sysinit.target.wants/apparmor.service | -> | -> /usr/lib/systemd/system/apparmor.service | -
mandatory_access_control = false | epoxy-debian13 | storage01 | /etc/systemd/system/apparmor.service | -> | - | -> /dev/null
listen_everywhere = true | train-centos7 | controller01 | /etc/sysconfig/memcached | OPTIONS | OPTIONS="-l 172.16.181.31 -U 0" | OPTIONS="-l 0.0.0.0 -U 0"
listen_everywhere = true | train-centos7 | controller01 | /etc/haproxy/haproxy.cfg | bind 0.0.0.0 |  | bind 0.0.0.0:1080 ssl crt /etc/haproxy/tls/node.pem
allow_any_host = true | train-centos7 | controller01 | /etc/openstack-dashboard/local_settings | ALLOWED_HOSTS | ALLOWED_HOSTS = ['172.16.181.30', 'localhost'] | ALLOWED_HOSTS = ['*', 'localhost']
allow_any_host = true | epoxy-debian13 | controller01 | /etc/openstack-dashboard/local_settings.py | ALLOWED_HOSTS | ALLOWED_HOSTS = ['172.16.181.30', 'localhost'] | ALLOWED_HOSTS = ['*', 'localhost']
"#;

/// Lines of a rendered file that begin so; of a link, its target.
fn lines(tree: &Path, file: &str, begin: &str) -> String {
    let path = tree.join(file.trim_start_matches('/'));
    if let Ok(target) = std::fs::read_link(&path) {
        return format!("-> {}", target.display());
    }
    let Ok(text) = std::fs::read_to_string(&path) else { return "-".to_string() };
    text.lines().map(str::trim).filter(|line| line.starts_with(begin)).collect::<Vec<_>>().join("; ")
}

/// The tree of a node, and what the program warns of, with these options.
fn render(options: &str, release: &str, node: &str) -> (Test, String) {
    let test = Test::shipped().replace("site.toml", "[options]\n", &format!("[options]\n{options}\n"));
    let ran = test.run(["--release", release, "render", node, "--out", "tree"]);
    let warnings = ran.succeeds().stderr();
    (test, warnings)
}

fn warning(test: &Test, option: &str) -> String {
    let text = std::fs::read_to_string(test.project().join("recipes/options.toml")).unwrap();
    let options: toml::Table = toml::from_str(&text).unwrap();
    options[option]["warning"].as_str().unwrap().to_string()
}

#[test]
fn an_option_restores_the_guides_way_and_warns() {
    for case in CASES.lines().filter(|line| !line.is_empty()) {
        let cells: Vec<&str> = case.split(" | ").collect();
        let [option, release, node, file, begin, safe, guide] = cells[..] else { panic!("no case: {case}") };
        let (default, said) = render("", release, node);
        assert_eq!(lines(&default.project().join("tree"), file, begin), safe.trim(), "{case}");
        let name = option.split(' ').next().unwrap();
        let warning = format!("warning: site.toml: {option}: {}\n", warning(&default, name));
        assert!(!said.contains(&warning), "{case}\n{said}");

        let (changed, said) = render(option, release, node);
        assert_eq!(lines(&changed.project().join("tree"), file, begin), guide, "{case}");
        assert!(said.contains(&warning), "{case}\n{said}");
    }
}

#[test]
fn without_a_fence_device_stonith_must_be_given_up_aloud() {
    let (test, said) = render("", "epoxy-debian13", "controller01");
    assert_eq!(said, format!("warning: site.toml: stonith = false: {}\n", warning(&test, "stonith")));
    let site = std::fs::read_to_string(test.project().join("site.toml")).unwrap();
    let line = site.lines().find(|line| line.starts_with("stonith = false")).unwrap().to_string();
    let test = test.replace("site.toml", &line, "");
    let ran = test.run(["render", "controller01", "--out", "fenced"]);
    assert_eq!((ran.output.status.code(), test.project().join("fenced").exists()), (Some(1), false));
    let said = ran.stderr();
    assert!(
        said.contains("the controller controller01 has no fence device") && said.contains("or stonith = false into [options]"),
        "{said}"
    );
}

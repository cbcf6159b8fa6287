//! Documents of other systems, as they stand: `redial exec` with one of them, and what a server then sees.
//!
//! `tests/documents/seeds` has the examples of the systems' own documentation without the shell around them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redial_tests::agent::{Agent, Options, admin_socket, binary};
use redial_tests::dns::Dns;
use redial_tests::exchange::Protocol;
use redial_tests::http_upstream::{Attempt, HttpUpstream, Port, Reaction};
use redial_tests::world::{Family, SERVER_V4, World};
use serde_json::{Value, json};
use tempfile::TempDir;

const PORT: u16 = 80;

fn seed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("documents/seeds").join(name)
}

fn port(number: u16, protocol: Protocol, script: &[Value]) -> Result<Port> {
    let script = script.iter().cloned().map(Reaction::try_from).collect::<Result<_, _>>()?;
    Ok(Port::new(Family::V4.server(number), protocol, script))
}

fn respond(status: u16) -> Value {
    json!({"respond": {"status": status, "body": "x"}})
}

/// A server on [`PORT`] that answers with these statuses, the last one for ever.
fn server(world: &World, statuses: &[u16]) -> Result<HttpUpstream> {
    let script: Vec<_> = statuses.iter().map(|status| respond(*status)).collect();
    HttpUpstream::start(&world.server, vec![port(PORT, Protocol::H1, &script)?])
}

/// `redial exec` with these documents and options around curl with these arguments; what curl says of the status.
fn curl(world: &World, configs: &[&Path], options: &[&str], arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary()?);
    command.arg("exec");
    for config in configs {
        command.arg("--config").arg(config);
    }
    command.args(options).args([
        "--",
        "curl",
        "-s",
        "--max-time",
        "60",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ]);
    command.args(arguments).stdin(Stdio::null());
    let Output { stdout, stderr, .. } = world.pod.run(move || command.output().context("starting redial"))?;
    let stderr = String::from_utf8_lossy(&stderr);
    // What it warns of is another test's subject.
    ensure!(!stderr.lines().any(|line| line.starts_with("redial: ")), "{stderr}");
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn url(port: u16, path: &str) -> String {
    format!("http://{SERVER_V4}:{port}{path}")
}

fn seen(server: &HttpUpstream) -> Vec<Attempt> {
    server.attempts(Family::V4.server(PORT))
}

/// A document of a test's own.
fn document(text: &str) -> Result<(TempDir, PathBuf)> {
    let folder = TempDir::new()?;
    let path = folder.path().join("document.yaml");
    std::fs::write(&path, text)?;
    Ok((folder, path))
}

#[test]
fn app_mesh_s_route_is_retried_three_times() -> Result<()> {
    let config = seed("create-route-retry-policy.json");
    for (name, statuses, expected, attempts) in [
        // server-error, gateway-error.
        ("am-500", &[500, 503, 511, 200][..], "200", 4),
        ("am-508", &[508], "508", 4),
        // Neither of the two, and 509 is in no list.
        ("am-409", &[409, 200], "409", 1),
        ("am-509", &[509, 200], "509", 1),
    ] {
        let world = World::new(name)?;
        let server = server(&world, statuses)?;
        // The method makes no difference in App Mesh.
        for method in ["GET", "POST"] {
            let before = seen(&server).len();
            if before > 0 && statuses.len() > 1 {
                break;
            }
            let status = curl(&world, &[&config], &[], &["-X", method, &url(PORT, "/any")])?;
            assert_eq!(status, expected, "{name} {method}");
            assert_eq!(seen(&server).len() - before, attempts, "{name} {method}");
        }
    }
    Ok(())
}

/// `connection-error`: three more attempts to connect.
#[test]
fn app_mesh_s_route_retries_connects() -> Result<()> {
    let world = World::new("am-connect")?;
    let firewall = redial_tests::firewall::Firewall::new(&world.server)?;
    let config = seed("create-route-retry-policy.json");
    assert_eq!(curl(&world, &[&config], &[], &[&url(PORT, "/")])?, "000");
    assert_eq!(firewall.attempts_to(PORT)?, 4);
    Ok(())
}

#[test]
fn kgateway_s_route_says_how_long_an_attempt_may_take() -> Result<()> {
    let world = World::new("kgateway")?;
    let server = server(&world, &[200])?;
    let configs = [seed("route-option.yaml"), seed("http-route.yaml")];
    let configs = configs.each_ref().map(PathBuf::as_path);
    let host = ["-H", "host: retry.example:8080"];
    let url_of_headers = url(PORT, "/headers");
    let arguments = [&host[..], &[&url_of_headers]].concat();
    assert_eq!(curl(&world, &configs, &[], &arguments)?, "200");
    assert_eq!(curl(&world, &configs, &[], &["-H", "host: other.example", &url(PORT, "/headers")])?, "200");
    let timeouts: Vec<_> = seen(&server)
        .iter()
        .map(|one| one.headers.get("x-envoy-expected-rq-timeout-ms").map(|values| values.join(",")))
        .collect();
    assert_eq!(timeouts, [Some("5000".to_owned()), None]);
    Ok(())
}

/// What it retries is a failed connect; a bad response is the client's.
#[test]
fn kgateway_s_route_retries_connects_and_nothing_else() -> Result<()> {
    let world = World::new("kgateway-503")?;
    let configs = [seed("route-option.yaml"), seed("http-route.yaml")];
    let configs = configs.each_ref().map(PathBuf::as_path);
    let host = ["-H", "host: retry.example", &url(PORT, "/")];
    let firewall = redial_tests::firewall::Firewall::new(&world.server)?;
    assert_eq!(curl(&world, &configs, &[], &host)?, "000");
    assert_eq!(firewall.attempts_to(PORT)?, 4);
    let server = server(&world, &[503, 200])?;
    assert_eq!(curl(&world, &configs, &[], &host)?, "503");
    assert_eq!(seen(&server).len(), 1);
    Ok(())
}

/// Each promise of Kuma's page for requests.
#[test]
fn kuma_s_retry_is_kept() -> Result<()> {
    for (name, conf, statuses, expected, attempts) in [
        ("kuma-default", "numRetries: 2", &[502, 503, 200][..], "200", 3),
        ("kuma-500", "numRetries: 2", &[500, 200], "500", 1),
        ("kuma-418", "numRetries: 1, retriableStatusCodes: [418]", &[418, 200], "200", 2),
        // The list takes the default's place.
        ("kuma-503", "numRetries: 1, retriableStatusCodes: [418]", &[503, 200], "503", 1),
        ("kuma-5xx", "numRetries: 1, retryOn: [all_5xx]", &[500, 200], "200", 2),
        ("kuma-get", "numRetries: 1, retriableMethods: [POST]", &[503, 200], "503", 1),
        ("kuma-try", "numRetries: 1, perTryTimeout: 0.0005m, retryOn: [gateway_error]", &[0, 200], "200", 2),
    ] {
        let world = World::new(name)?;
        let script: Vec<_> = statuses
            .iter()
            .map(|status| if *status == 0 { json!("hang") } else { respond(*status) })
            .collect();
        let server = HttpUpstream::start(&world.server, vec![port(PORT, Protocol::H1, &script)?])?;
        let (_folder, config) = document(&format!(
            "type: Retry\nname: r\nmesh: default\nsources:\n- match: {{kuma.io/service: '*'}}\ndestinations:\n- match: \
             {{kuma.io/service: '*'}}\nconf:\n  http: {{{conf}}}\n"
        ))?;
        assert_eq!(curl(&world, &[&config], &[], &[&url(PORT, "/")])?, expected, "{name}");
        assert_eq!(seen(&server).len(), attempts, "{name}");
    }
    Ok(())
}

/// Selectors by tags, for a workload that says what it is.
#[test]
fn kuma_s_sources_choose_the_workload() -> Result<()> {
    let world = World::new("kuma-as")?;
    let server = server(&world, &[503])?;
    let (_folder, config) = document(
        "type: Retry\nname: r\nmesh: default\nsources:\n- match: {kuma.io/service: web, version: '1'}\ndestinations:\n\
         - match: {kuma.io/service: '*'}\nconf:\n  http: {numRetries: 2}\n",
    )?;
    for (identity, attempts) in
        [(&["--as", "kuma.io/service=web,version=1"][..], 3), (&["--as", "kuma.io/service=web"], 1), (&[], 3)]
    {
        let before = seen(&server).len();
        curl(&world, &[&config], identity, &[&url(PORT, "/")])?;
        assert_eq!(seen(&server).len() - before, attempts, "{identity:?}");
    }
    Ok(())
}

/// The narrower of two says how often, and the other for what.
#[test]
fn kuma_s_mesh_retries_are_merged() -> Result<()> {
    let world = World::new("kuma-merge")?;
    let server = server(&world, &[500])?;
    let policy = |name: &str, target: &str, http: &str| {
        format!(
            "---\ntype: MeshRetry\nname: {name}\nspec:\n  targetRef: {target}\n  to:\n  - targetRef: {{kind: Mesh}}\n    default: \
             {{http: {http}}}\n"
        )
    };
    let text = policy("all", "{kind: Mesh}", "{numRetries: 1, retryOn: ['500']}")
        + &policy("web", "{kind: Dataplane, labels: {app: web}}", "{numRetries: 3}");
    let (_folder, config) = document(&text)?;
    for (identity, attempts) in [("app=web", 4), ("app=db", 2)] {
        let before = seen(&server).len();
        curl(&world, &[&config], &["--as", identity], &[&url(PORT, "/")])?;
        assert_eq!(seen(&server).len() - before, attempts, "{identity}");
    }
    Ok(())
}

/// Of tcp: so many attempts to connect.
#[test]
fn kuma_s_connects_are_counted() -> Result<()> {
    for (number, word) in [(2, "maxConnectAmount"), (5, "maxConnectAttempts")] {
        let world = World::new(&format!("kuma-tcp{number}"))?;
        let firewall = redial_tests::firewall::Firewall::new(&world.server)?;
        let (_folder, config) = document(&format!(
            "type: Retry\nname: r\nmesh: default\nsources:\n- match: {{kuma.io/service: '*'}}\ndestinations:\n- match: \
             {{kuma.io/service: '*'}}\nconf:\n  tcp: {{{word}: {number}}}\n"
        ))?;
        assert_eq!(curl(&world, &[&config], &[], &[&url(PORT, "/")])?, "000");
        assert_eq!(firewall.attempts_to(PORT)?, number);
    }
    Ok(())
}

/// Weighted targets whose virtual nodes have names in DNS: where requests go, and where their retries do.
#[test]
fn app_mesh_s_targets_get_their_weights() -> Result<()> {
    let world = World::new("am-targets")?;
    let address: IpAddr = SERVER_V4.into();
    let dns = SocketAddr::new(address, 53);
    let _dns = Dns::start(
        &world.server,
        dns,
        &[("a.test", &[address]), ("b.test", &[address]), ("c.test", &[address])],
    )?;
    let (good, bad, none) = (8001, 8002, 8003);
    let ports = [(good, respond(200)), (bad, respond(503)), (none, respond(200))];
    let ports = ports.map(|(number, script)| port(number, Protocol::H1, &[script]));
    let server = HttpUpstream::start(&world.server, ports.into_iter().collect::<Result<_>>()?)?;
    let virtual_node = |name: &str, number: u16| {
        format!(
            "---\n{{\"meshName\": \"m\", \"virtualNodeName\": \"{name}\", \"spec\": {{\"serviceDiscovery\": {{\"dns\": \
             {{\"hostname\": \"{name}.test\"}}}}, \"listeners\": [{{\"portMapping\": {{\"port\": {number}, \
             \"protocol\": \"http\"}}}}]}}}}\n"
        )
    };
    let route = "{\"meshName\": \"m\", \"virtualRouterName\": \"r\", \"routeName\": \"one\", \"spec\": {\"httpRoute\": \
                 {\"match\": {\"prefix\": \"/\"}, \"action\": {\"weightedTargets\": [{\"virtualNode\": \"a\", \"weight\": \
                 50}, {\"virtualNode\": \"b\", \"weight\": 50}, {\"virtualNode\": \"c\", \"weight\": 0}]}, \"retryPolicy\": \
                 {\"maxRetries\": 2, \"perRetryTimeout\": {\"value\": 2, \"unit\": \"s\"}, \"httpRetryEvents\": \
                 [\"gateway-error\"]}}}}\n";
    let (folder, config) = document(
        &[route.to_owned(), virtual_node("a", good), virtual_node("b", bad), virtual_node("c", none)]
            .concat(),
    )?;
    let resolv = folder.path().join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {address}\n"))?;
    let resolv = resolv.to_str().context("not UTF-8")?;
    // Nobody listens where the connection is dialled to. So few requests a second that the budget has a retry for each.
    let urls: Vec<_> = (0..20).map(|n| url(PORT, &format!("/{n}"))).collect();
    let each = urls.iter().flat_map(|url| ["-o", "/dev/null", url.as_str()]);
    let urls: Vec<_> = ["--rate", "5/s"].into_iter().chain(each).collect();
    let statuses = curl(&world, &[&config], &["--resolv-conf", resolv], &urls)?;
    assert_eq!(statuses, "200".repeat(20));
    let count = |number| server.attempts(Family::V4.server(number)).len();
    assert_eq!((count(good), count(none)), (20, 0));
    // By chance: all 20 begin at the same one once in half a million runs.
    assert!((1..20).contains(&count(bad)), "{} of 20 began at the bad one", count(bad));
    Ok(())
}

/// Of the matches of Istio's document the first is taken, whatever its port and its workloads.
#[test]
fn istio_s_matches_tell_ports_and_workloads_apart() -> Result<()> {
    let world = World::new("istio")?;
    let server = server(&world, &[503])?;
    let (_folder, config) = document(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: all, namespace: shop}\nspec:\n  hosts: \
         [any.example, '*']\n  http:\n  - match: [{port: 81}]\n    route: [{destination: {host: any.example}}]\n    retries: \
         {attempts: 9, retryOn: '503'}\n  - match: [{sourceLabels: {app: web}}, {sourceLabels: {app: other}, port: 80}]\n    \
         route: [{destination: {host: any.example}}]\n    retries: {attempts: 1, retryOn: '503'}\n  - route: [{destination: \
         {host: any.example}}]\n    retries: {attempts: 3, retryOn: '503'}\n",
    )?;
    for (identity, attempts) in [("app=web", 2), ("app=other", 2), ("app=third", 4)] {
        let before = seen(&server).len();
        curl(&world, &[&config], &["--as", identity], &[&url(PORT, "/")])?;
        assert_eq!(seen(&server).len() - before, attempts, "{identity}");
    }
    Ok(())
}

/// A profile's retries are bounded by its budget alone, and only its routes are retried.
#[test]
fn linkerd_s_profile_is_kept() -> Result<()> {
    let world = World::new("linkerd")?;
    let server = server(&world, &[503, 503, 503, 200, 503])?;
    let (_folder, config) = document(
        "apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\nmetadata: {name: web.shop.svc.cluster.local}\nspec:\n  routes:\n  \
         - name: books\n    condition: {method: GET, pathRegex: '/books/[^/]*'}\n    isRetryable: true\n",
    )?;
    let host = ["-H", "host: web.shop"];
    let get = |path: &str| curl(&world, &[&config], &[], &[&host[..], &[&url(PORT, path)]].concat());
    assert_eq!(get("/books/1?a=b")?, "200");
    assert_eq!(seen(&server).len(), 4);
    assert_eq!(get("/other")?, "503");
    assert_eq!(seen(&server).len(), 5);
    Ok(())
}

/// Of two files one says for which host the other's route is. That other one changes: to another number, to the document of
/// another system, to two of which one is wrong, and back.
#[test]
fn documents_are_read_again_and_bad_ones_change_nothing() -> Result<()> {
    let world = World::new("im-reload")?;
    let server = server(&world, &[503])?;
    let provider = json!({"virtualRouter": {"virtualRouterName": "r"}});
    let service =
        json!({"meshName": "m", "virtualServiceName": "retry.test", "spec": {"provider": provider}});
    let (folder, service) = document(&service.to_string())?;
    let resolv = folder.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.0.1\n")?;
    let [service, resolv] = [&service, &resolv].map(|path| path.display().to_string());
    let route = |retries: i32| {
        let route = json!({
            "match": {"prefix": "/"},
            "action": {"weightedTargets": [{"virtualNode": "n", "weight": 1}]},
            "retryPolicy": {"maxRetries": retries, "httpRetryEvents": ["gateway-error"]},
        });
        let spec = json!({"httpRoute": route});
        json!({"meshName": "m", "virtualRouterName": "r", "routeName": "one", "spec": spec}).to_string()
    };
    let kuma = |retries: i32| {
        let everything = json!([{"match": {"kuma.io/service": "*"}}]);
        let conf = json!({"http": {"numRetries": retries}});
        let (sources, destinations) = (&everything, &everything);
        json!({"type": "Retry", "name": "k", "sources": sources, "destinations": destinations, "conf": conf})
            .to_string()
    };
    let options = Options {
        config: Some(&route(1)),
        arguments: &["--config", &service, "--resolv-conf", &resolv],
        ..Options::default()
    };
    let mut agent = Agent::start_with(&[&world.cgroup], &options)?;
    let attempts = |host: &str| -> Result<usize> {
        let before = seen(&server).len();
        let mut curl = world.workload("curl");
        curl.args([
            "-s",
            "--noproxy",
            "*",
            "-o",
            "/dev/null",
            "-H",
            &format!("host: {host}"),
            &url(PORT, "/"),
        ]);
        let status = world.pod.spawn(curl.stdin(Stdio::null()))?.wait()?;
        ensure!(status.success(), "curl: {status}");
        Ok(seen(&server).len() - before)
    };
    let until = |what: &str, is_so: &dyn Fn() -> Result<bool>| -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so()? {
            ensure!(Instant::now() < deadline, "{what} did not come");
            // So few requests that the budget has a retry for each.
            sleep(Duration::from_millis(500));
        }
        Ok(())
    };
    assert_eq!((attempts("retry.test")?, attempts("other.test")?), (2, 1));

    agent.write_config(&route(3))?;
    until("three retries", &|| Ok(attempts("retry.test")? == 4))?;
    assert_eq!(attempts("other.test")?, 1);

    // Without its route the virtual service says nothing any more.
    agent.write_config(&kuma(2))?;
    until("Kuma's policy", &|| Ok(attempts("other.test")? == 3))?;
    assert_eq!(attempts("retry.test")?, 3);
    let status = agent.status()?;
    assert_eq!(status["last_config_error"], Value::Null);
    assert_eq!(status["policies"][0]["name"], json!("Retry/k"), "{status}");
    let reloads = |result| {
        Ok::<_, anyhow::Error>(agent.metrics()?.sum("redial_config_reloads_total", &[("result", result)]))
    };
    assert!(reloads("ok")? >= 2.0 && reloads("error")? < 1.0, "{}", agent.log()?);

    agent.write_config(&format!("{}\n---\n{}", kuma(1), route(-1)))?;
    until("the error", &|| Ok(!agent.status()?["last_config_error"].is_null()))?;
    let place = "policy.yaml:3: spec.httpRoute.retryPolicy.maxRetries: expected a whole number";
    let status = agent.status()?;
    assert!(status["last_config_error"].as_str().is_some_and(|error| error.contains(place)), "{status}");
    assert_eq!(status["policies"][0]["name"], json!("Retry/k"), "{status}");
    assert!(reloads("error")? >= 1.0);
    assert!(agent.metrics()?.sum("redial_config_last_reload_successful", &[]) < 1.0);
    agent.wait_log(place)?;
    agent.wait_log("the last good ones stay in force")?;
    let socket = admin_socket(&world.cgroup)?;
    let output = Command::new(binary()?).args(["status", "--socket"]).arg(&socket).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("the policies were not reloaded") && said.contains(place), "{said}");
    assert_eq!(
        (attempts("other.test")?, attempts("retry.test")?),
        (3, 3),
        "the last good ones stay in force"
    );

    agent.write_config(&route(1))?;
    until("the good policies", &|| Ok(agent.status()?["last_config_error"].is_null()))?;
    until("one retry", &|| Ok(attempts("retry.test")? == 2))?;
    assert_eq!(attempts("other.test")?, 1);
    assert!(agent.metrics()?.sum("redial_config_last_reload_successful", &[]) > 0.0);
    Ok(())
}

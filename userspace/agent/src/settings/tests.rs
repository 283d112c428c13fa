use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::{Cli, LogFormat, Settings};

const GOOD: [&str; 7] =
    ["culvert-agent", "--node", "node-1", "--control", "https://10.0.0.1:15012", "--control-root", "root.pem"];

fn check(more: &[&str]) -> Result<Settings, Vec<String>> {
    let cli = Cli::try_parse_from(GOOD.iter().chain(more)).expect("flags are known");
    Settings::check(&cli.run).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

#[test]
fn the_smallest_set_of_settings_is_enough() {
    let settings = check(&[]).expect("good settings");
    assert_eq!(&*settings.node, "node-1");
    assert_eq!(settings.control.to_string(), "10.0.0.1:15012");
    assert_eq!(settings.log_format, LogFormat::Text);
    assert_eq!(settings.drain, Duration::from_secs(5));
    assert!(settings.workers >= 1);
    assert_eq!(settings.max_connection_age, None, "maxConnectionAge is off by default");
    assert!(!settings.withdraw_on_exit, "pods stay closed when the agent stops");
}

#[test]
fn of_a_flag_that_is_given_twice_the_last_one_counts() {
    let settings = check(&["--drain", "1s", "--drain", "9s"]).expect("what extraArgs of the chart may say");
    assert_eq!(settings.drain, Duration::from_secs(9));
}

#[test]
fn the_address_of_a_service_may_be_of_ipv6_without_brackets() {
    for (given, address) in [
        ("https://fd00::1:15012", "[fd00::1]:15012"),
        ("https://[fd00::1]:15012/", "[fd00::1]:15012"),
        ("https://2001:db8:0:0:0:0:0:1:443", "[2001:db8::1]:443"),
    ] {
        assert_eq!(check(&["--control", given]).expect(given).control.to_string(), address);
    }
    for given in ["https://fd00::1", "https://::1", "https://:15012"] {
        check(&["--control", given]).expect_err(given);
    }
}

#[test]
fn all_faults_come_together() {
    let cli = Cli::try_parse_from([
        "culvert-agent",
        "--control",
        "http://10.0.0.1:15012",
        "--run-dir",
        "relative",
        "--metrics",
        "nowhere",
        "--log-format",
        "xml",
        "--workers",
        "0",
        "--max-connection-age",
        "5 minutes",
    ])
    .expect("flags are known");
    let faults = Settings::check(&cli.run).expect_err("nearly everything is wrong");
    let named: Vec<_> = faults.iter().map(|fault| fault.setting).collect();
    assert_eq!(
        named,
        [
            "--node",
            "--control",
            "--control-root",
            "--run-dir",
            "--metrics",
            "--log-format",
            "--workers",
            "--max-connection-age"
        ]
    );
}

#[test]
fn values_that_look_right_are_still_checked() {
    for (flag, value) in [
        ("--node", "Node_1"),
        ("--control", "https://control.example:15012"),
        ("--control", "https://10.0.0.1"),
        ("--trust-domain", "Upper.Case"),
        ("--drain", "0s"),
        ("--svid-life", "9s"),
        ("--svid-life", "25h"),
        ("--max-connections", "0"),
        ("--log", "culvert=nonsense"),
    ] {
        let faults = check(&[flag, value]).expect_err(value);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(flag), "{faults:?}");
    }
}

#[test]
fn every_setting_is_documented() {
    let page = include_str!("../../../../docs/operating/settings.md");
    let documented: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `--")?.split(['`', ' ']).next()).collect();
    let command = Cli::command();
    let mut flags: Vec<&str> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
    flags.retain(|flag| !matches!(*flag, "help" | "version"));
    assert_eq!(flags, documented, "docs/operating/settings.md lists the flags in their order");
}

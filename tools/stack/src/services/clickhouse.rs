//! ClickHouse: the engine behind our HTTP front, or a real server where one is on PATH.

use std::path::Path;

use anyhow::Context;
use secrecy::ExposeSecret;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Service, Site};
use crate::endpoints;
use crate::install::clickhouse::Clickhouse;
use crate::process::Launch;
use crate::secrets::write_private;
use crate::versions::{CLICKHOUSE_READER, CLICKHOUSE_USER, HOST, READER_SETTINGS};

/// Writes the users, and says how to start.
pub(crate) async fn prepare(site: &Site<'_>, clickhouse: &Clickhouse) -> anyhow::Result<Launch> {
    let data = site.layout.data(Service::Clickhouse);
    std::fs::create_dir_all(&data).with_context(|| format!("could not make {}", data.display()))?;
    match clickhouse {
        Clickhouse::Front { front, lib } => {
            let users = site.layout.run().join("clickhouse-users.json");
            write_private(&users, &serde_json::to_vec_pretty(&front_users(site))?)?;
            Ok(Launch::new(front, &data)
                .arg("--lib")
                .arg(lib)
                .arg("--data")
                .arg(&data)
                .arg("--listen")
                .arg(format!("{HOST}:{}", site.port))
                .arg("--users")
                .arg(users))
        }
        Clickhouse::Server { program } => {
            let folder = site.layout.run().join("clickhouse");
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("could not make {}", folder.display()))?;
            let config = folder.join("config.xml");
            write_private(&config, server_config(site.port, &data)?.as_bytes())?;
            write_private(&folder.join("users.xml"), server_users(site).as_bytes())?;
            Ok(Launch::new(program, &data).arg("server").arg("--config-file").arg(config))
        }
    }
}

fn front_users(site: &Site<'_>) -> serde_json::Value {
    let limits: serde_json::Map<String, serde_json::Value> =
        READER_SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!([
        {
            "name": CLICKHOUSE_USER,
            "password": site.secrets.clickhouse_writer,
            "readonly": false,
            "settings": {},
        },
        {
            "name": CLICKHOUSE_READER,
            "password": site.secrets.clickhouse_reader,
            "readonly": true,
            "settings": limits,
        },
    ])
}

fn server_config(port: u16, data: &Path) -> anyhow::Result<String> {
    let data = data.to_str().context("ClickHouse wants a data folder whose path is UTF-8")?;
    let data = data.replace('&', "&amp;").replace('<', "&lt;");
    Ok(format!(
        "\
<clickhouse>
    <logger><level>information</level><console>true</console></logger>
    <listen_host>{HOST}</listen_host>
    <http_port>{port}</http_port>
    <path>{data}/</path>
    <tmp_path>{data}/tmp/</tmp_path>
    <user_files_path>{data}/user_files/</user_files_path>
    <format_schema_path>{data}/format_schemas/</format_schema_path>
    <timezone>UTC</timezone>
    <mark_cache_size>268435456</mark_cache_size>
    <max_server_memory_usage>4000000000</max_server_memory_usage>
    <default_profile>default</default_profile>
    <default_database>default</default_database>
    <user_directories><users_xml><path>users.xml</path></users_xml></user_directories>
</clickhouse>
"
    ))
}

fn server_users(site: &Site<'_>) -> String {
    let user = |name: &str, password: &str, profile: &str| {
        let hash: String = Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "        <{name}>
            <password_sha256_hex>{hash}</password_sha256_hex>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>{profile}</profile>
            <quota>default</quota>
        </{name}>
"
        )
    };
    let limits: String =
        READER_SETTINGS.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect();
    format!(
        "<clickhouse>
    <profiles>
        <default/>
        <!-- 2, not 1: Grafana's data source sends settings with its queries. -->
        <reader><readonly>2</readonly>{limits}</reader>
    </profiles>
    <quotas><default/></quotas>
    <users>
{}{}    </users>
</clickhouse>
",
        user(CLICKHOUSE_USER, &site.secrets.clickhouse_writer, "default"),
        user(CLICKHOUSE_READER, &site.secrets.clickhouse_reader, "reader"),
    )
}

/// Has a query answered over HTTP.
pub(crate) async fn probe(endpoint: &endpoints::Clickhouse) -> anyhow::Result<()> {
    let answer = reqwest::Client::builder()
        .no_proxy()
        .build()?
        .post(&endpoint.url)
        .header("X-ClickHouse-User", &endpoint.user)
        .header("X-ClickHouse-Key", endpoint.password.expose_secret())
        .body("SELECT 1")
        .send()
        .await?;
    let status = answer.status();
    let text = answer.text().await?;
    anyhow::ensure!(
        status.is_success() && text.trim() == "1",
        "ClickHouse answered SELECT 1 with {status}: {}",
        text.chars().take(300).collect::<String>()
    );
    Ok(())
}

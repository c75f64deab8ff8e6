//! Seeded orders, and sending them as customers do: over HTTP, some at a time.

use crate::catalogue;
use anyhow::{Context, bail};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Customers who order at the same moment. The emulator queues 100 requests for a function and stalls beyond.
pub const CUSTOMERS: usize = 8;
/// A first request starts its function, which takes seconds; one whose function dies is never answered.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long one order is tried while a service is away. A function that cannot start never answers.
const PATIENCE: Duration = Duration::from_secs(180);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Orders as they would come: few lines, few pieces, some products far more wanted than others.
#[derive(Debug)]
pub struct Orders(StdRng);

impl Orders {
    /// The same seed gives the same orders.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// The next order's body: `{"userId", "items": [{"productId", "quantity"}]}`.
    pub fn next_order(&mut self) -> Value {
        let lines = self.0.random_range(1..=4);
        let mut products: Vec<usize> = Vec::with_capacity(lines);
        while products.len() < lines {
            // The smaller of two throws: the first products sell best.
            let product = self.0.random_range(0..20).min(self.0.random_range(0..20));
            if !products.contains(&product) {
                products.push(product);
            }
        }
        let items: Vec<Value> = products
            .into_iter()
            .map(|n| json!({"productId": catalogue::id(n), "quantity": self.0.random_range(1..=5)}))
            .collect();
        json!({"userId": format!("u-{:04}", self.0.random_range(1..=500)), "items": items})
    }
}

/// Sends orders to `POST /orders`.
#[derive(Clone, Debug)]
pub struct Customer {
    client: reqwest::Client,
    url: String,
}

impl Customer {
    /// # Errors
    /// Where the HTTP client cannot be set up.
    pub fn new(functions_url: &str) -> anyhow::Result<Self> {
        let client =
            reqwest::Client::builder().timeout(TIMEOUT).build().context("setting up the HTTP client")?;
        Ok(Self { client, url: format!("{functions_url}/orders") })
    }

    /// Orders once; status and body, whatever they are.
    ///
    /// # Errors
    /// Where no answer comes.
    pub async fn post(&self, body: String) -> anyhow::Result<(u16, Value)> {
        let request = self.client.post(&self.url).header("content-type", "application/json").body(body);
        let response = request.send().await.context("POST /orders was not answered")?;
        let status = response.status().as_u16();
        let text = response.text().await.context("the answer to POST /orders broke off")?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Orders, and tries again while the shop says that it is not available. The order as it was answered.
    ///
    /// A request that got no answer may have been taken all the same: then there is an order more than were counted.
    ///
    /// # Errors
    /// Where the order is refused, or the shop stays away.
    pub async fn order(&self, body: &Value) -> anyhow::Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.post(body.to_string()).await {
                Ok((201, order)) => return Ok(order),
                Ok((503, _)) | Err(_) if Instant::now() < deadline => tokio::time::sleep(RETRY_PAUSE).await,
                Ok((status, answer)) => bail!("POST /orders answered {status}: {answer}"),
                Err(error) => return Err(error),
            }
        }
    }
}

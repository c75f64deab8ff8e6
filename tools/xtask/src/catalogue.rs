//! A small shop to try things with: twenty products, p-001 to p-020, with more stock than anybody orders.

use outflow_domain::{Money, Product, ProductId};
use outflow_store::Store;
use rust_decimal::Decimal;

/// Pieces of each product.
const STOCK: u32 = 1_000_000_000;

/// Name and price in cents. Prices whose tenth and hundredth show every rounding that goes wrong.
const PRODUCTS: [(&str, i64); 20] = [
    ("Espresso cup", 1_299),
    ("Cappuccino cup", 1_549),
    ("Saucer", 495),
    ("Milk jug", 2_205),
    ("Tamper", 3_999),
    ("Portafilter", 8_933),
    ("Knock box", 2_750),
    ("Grinder", 24_999),
    ("Grinder burrs", 4_310),
    ("Scale", 7_801),
    ("Kettle", 9_907),
    ("Pour-over dripper", 1_811),
    ("Paper filters, 100", 623),
    ("Server, 600 ml", 2_699),
    ("Beans, house blend, 250 g", 987),
    ("Beans, single origin, 250 g", 1_433),
    ("Descaler", 1_111),
    ("Cleaning brush", 349),
    ("Apron", 3_333),
    ("Barista course", 14_900),
];

/// The id of product number `n` from 0.
pub fn id(n: usize) -> String {
    format!("p-{:03}", n % PRODUCTS.len() + 1)
}

/// Puts the products into the shop. Safe to repeat; fills the stock up again.
///
/// # Errors
/// Where MySQL refuses.
pub async fn put(store: &Store) -> anyhow::Result<()> {
    for (n, (name, cents)) in PRODUCTS.iter().enumerate() {
        let id = ProductId::parse(&id(n)).map_err(anyhow::Error::msg)?;
        let price = Money::from_decimal(Decimal::new(*cents, 2)).expect("the prices above are money");
        store.put_product(&Product { id, name: (*name).to_owned(), price }, STOCK).await?;
    }
    Ok(())
}

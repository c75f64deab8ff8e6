//! Products and their stock.

use crate::{Store, error::StoreError};
use outflow_domain::{Money, Product, ProductId};
use rust_decimal::Decimal;
use sqlx::{MySql, MySqlConnection, QueryBuilder, Row};
use std::collections::HashMap;

impl Store {
    /// Adds a product with its stock, or sets name, price and stock of one that is there.
    ///
    /// # Errors
    /// Where MySQL refuses; nothing is half written.
    pub async fn put_product(&self, product: &Product, available: u32) -> Result<(), StoreError> {
        let failed = |source| StoreError::Product { product_id: product.id.clone(), source };
        let mut transaction = self.pool.begin().await.map_err(StoreError::Connect)?;
        sqlx::query(
            "INSERT INTO products (id, name, price) VALUES (?, ?, ?) AS new
             ON DUPLICATE KEY UPDATE name = new.name, price = new.price",
        )
        .bind(product.id.as_str())
        .bind(&product.name)
        .bind(product.price.as_decimal())
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        sqlx::query(
            "INSERT INTO inventory (product_id, available) VALUES (?, ?) AS new
             ON DUPLICATE KEY UPDATE available = new.available",
        )
        .bind(product.id.as_str())
        .bind(available)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }
}

/// Those of the products that the catalogue holds.
pub(crate) async fn read<'a>(
    connection: &mut MySqlConnection,
    ids: impl Iterator<Item = &'a ProductId>,
) -> Result<HashMap<ProductId, Product>, StoreError> {
    let failed = |source| StoreError::WriteOrder { step: "reading the catalogue", source };
    let mut query = QueryBuilder::<MySql>::new("SELECT id, name, price FROM products WHERE id IN ");
    query.push_tuples(ids, |mut tuple, id| {
        tuple.push_bind(id.as_str());
    });
    let rows = query.build().fetch_all(connection).await.map_err(failed)?;
    rows.iter()
        .map(|row| {
            let id: String = row.try_get("id")?;
            let price: Decimal = row.try_get("price")?;
            let id = ProductId::parse(&id).map_err(|reason| decode_error("id", reason))?;
            let price =
                Money::from_decimal(price).ok_or_else(|| decode_error("price", "is not money".to_owned()))?;
            Ok((id.clone(), Product { id, name: row.try_get("name")?, price }))
        })
        .collect::<Result<_, _>>()
        .map_err(failed)
}

fn decode_error(column: &str, reason: String) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: reason.into() }
}

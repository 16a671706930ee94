//! Recipes: the SQL that makes pairs of rows.

pub(crate) mod builder;
pub(crate) mod params;
pub(crate) mod plan;
pub(crate) mod provenance;

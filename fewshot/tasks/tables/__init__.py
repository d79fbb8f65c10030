"""How the cells of a table become features: missing values, categories, means, splits."""

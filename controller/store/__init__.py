"""All SQL: tables, migrations, transactions."""

-- Administration of tenants, sites and agents; what is left of ledger rows that were removed.

ALTER TABLE tenant ADD COLUMN disabled_at timestamptz;
COMMENT ON COLUMN tenant.disabled_at IS 'Since when nothing is taken from its agents; null: enabled.';

ALTER TABLE agent ADD COLUMN disabled_at timestamptz;
COMMENT ON COLUMN agent.disabled_at IS 'Since when nothing is taken from it; null: enabled.';

CREATE TABLE site (
    site_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id int NOT NULL REFERENCES tenant,
    name text NOT NULL,
    disabled_at timestamptz,
    UNIQUE (tenant_id, name)
);
COMMENT ON COLUMN site.disabled_at IS 'Since when no births and readings of its points are taken; null: enabled.';
INSERT INTO site (tenant_id, name) SELECT DISTINCT tenant_id, site FROM point ORDER BY tenant_id, site;

CREATE TABLE registry_version (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL
);
COMMENT ON TABLE registry_version IS 'Grows with every change by hand, so that workers forget what they remember.';
INSERT INTO registry_version (version) VALUES (1);

CREATE TABLE ledger_removed (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    messages bigint NOT NULL,
    readings bigint NOT NULL
);
COMMENT ON TABLE ledger_removed IS 'Stored messages whose ledger rows were removed after folding, and their readings.';
INSERT INTO ledger_removed (messages, readings) VALUES (0, 0);

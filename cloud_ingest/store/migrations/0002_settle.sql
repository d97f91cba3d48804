-- What settle keeps: plant models, use per base interval, accounts with their revisions.

CREATE TABLE plant_model (
    plant_model_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id int NOT NULL REFERENCES tenant,
    site text NOT NULL,
    digest bytea NOT NULL,
    factors text NOT NULL,
    timezone text NOT NULL,
    document text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    current boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE plant_model IS 'Every version of a site''s plant.toml that accounts were computed by.';
COMMENT ON COLUMN plant_model.digest IS 'SHA-256 of the document: its version.';
COMMENT ON COLUMN plant_model.factors IS 'Version of the factor tables it was used with.';
CREATE UNIQUE INDEX plant_model_current ON plant_model (tenant_id, site) WHERE current;

CREATE TABLE settle_point (
    point_id int PRIMARY KEY REFERENCES point,
    parameters text NOT NULL,
    first_valid timestamptz,
    last_valid timestamptz
);
COMMENT ON TABLE settle_point IS 'Points that accounts depend on, how they were last computed, and their valid readings'' span.';

CREATE TABLE settle_site (
    tenant_id int NOT NULL REFERENCES tenant,
    site text NOT NULL,
    clock timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, site)
);
COMMENT ON COLUMN settle_site.clock IS 'Latest time of measurement of any point of the site.';

CREATE TABLE interval_use (
    point_id int NOT NULL,
    start timestamptz NOT NULL,
    use bigint,
    covered_us bigint NOT NULL,
    estimated bigint NOT NULL,
    flags smallint NOT NULL,
    PRIMARY KEY (point_id, start)
);
COMMENT ON TABLE interval_use IS 'Use of a counter in 15 minutes; no row: nothing is known and nothing happened.';
COMMENT ON COLUMN interval_use.use IS 'Millionths of the quantity''s canonical unit; null: not known.';
COMMENT ON COLUMN interval_use.estimated IS 'Part of the use that was split by time over a gap.';
COMMENT ON COLUMN interval_use.flags IS 'Bits of accounting.kernels.counter.Flag.';

CREATE TABLE account (
    account_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id int NOT NULL REFERENCES tenant,
    site text NOT NULL,
    process text NOT NULL,
    carrier text NOT NULL,
    period text NOT NULL CHECK (period IN ('hour', 'day')),
    start timestamptz NOT NULL,
    ends timestamptz NOT NULL,
    revision int NOT NULL,
    current boolean NOT NULL,
    final boolean NOT NULL,
    use numeric,
    unit text NOT NULL,
    coverage float8 NOT NULL,
    estimated_share float8,
    product text,
    output numeric,
    output_unit text,
    output_coverage float8,
    output_estimated_share float8,
    unit_use float8,
    co2_kg numeric,
    co2_kg_per_output float8,
    factor jsonb,
    flags text[] NOT NULL,
    notes text[] NOT NULL,
    inputs jsonb NOT NULL,
    plant_model_id int NOT NULL REFERENCES plant_model,
    computed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant_id, site, period, start, process, carrier, revision)
) WITH (fillfactor = 80);
COMMENT ON TABLE account IS 'Use, output, unit use and CO2 of a process in an hour or day of its site.';
COMMENT ON COLUMN account.process IS 'A process of the plant model, or balance:… for the residual of a balance.';
COMMENT ON COLUMN account.final IS 'A final row never changes but for `current`; a later change is a new revision.';
COMMENT ON COLUMN account.use IS 'Whole millionths of the unit, so that accounts add up exactly; null: not known.';
COMMENT ON COLUMN account.coverage IS 'Share of the time in which the worst meter''s course is known.';
COMMENT ON COLUMN account.inputs IS
    '{"use" | "output": [[point, share, use in millionths | null, covered µs, estimated millionths, [flags]], …]}';
CREATE UNIQUE INDEX account_current ON account (tenant_id, site, period, start, process, carrier) WHERE current;
CREATE INDEX account_open ON account (tenant_id, site, ends) WHERE current AND NOT final;
CREATE INDEX account_page ON account (tenant_id, start, site, process, carrier, period, revision);

-- Catalogue, ledger, dead letters, change feed. The reading tables are in 0001_store.<layout>.sql.

CREATE TABLE incarnation (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    drawn_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL
);
COMMENT ON TABLE incarnation IS 'The newest row names this database; a new one is drawn when it was restored.';
INSERT INTO incarnation (reason) VALUES ('created');

CREATE TABLE tenant (
    tenant_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

CREATE TABLE agent (
    agent_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id int NOT NULL REFERENCES tenant,
    name text NOT NULL,
    state text NOT NULL DEFAULT 'unknown' CHECK (state IN ('unknown', 'online', 'offline')),
    session uuid,
    state_at timestamptz,
    epochs uuid[] NOT NULL DEFAULT '{}',
    software text NOT NULL DEFAULT '',
    detail text NOT NULL DEFAULT '',
    UNIQUE (tenant_id, name)
);
COMMENT ON COLUMN agent.state_at IS 'When ingest learnt of the state (real time).';

CREATE TABLE point (
    point_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id int NOT NULL REFERENCES tenant,
    site text NOT NULL,
    device text NOT NULL,
    tag text NOT NULL,
    name text NOT NULL GENERATED ALWAYS AS (site || '/' || device || '/' || tag) STORED,
    quantity text NOT NULL,
    unit text NOT NULL,
    kind text NOT NULL,
    medium text NOT NULL,
    value_type text NOT NULL CHECK (value_type IN ('float', 'int', 'bool', 'text')),
    definition jsonb NOT NULL,
    described_at timestamptz NOT NULL,
    UNIQUE (tenant_id, name)
);
COMMENT ON COLUMN point.definition IS 'The point as the latest birth described it.';
COMMENT ON COLUMN point.described_at IS 'When the agent wrote that birth.';

CREATE TABLE schema (
    tenant_id int NOT NULL REFERENCES tenant,
    schema_id bytea NOT NULL,
    agent_id int NOT NULL REFERENCES agent,
    document jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, schema_id)
);

CREATE TABLE schema_point (
    tenant_id int NOT NULL,
    schema_id bytea NOT NULL,
    idx int NOT NULL,
    point_id int NOT NULL REFERENCES point,
    PRIMARY KEY (tenant_id, schema_id, idx),
    FOREIGN KEY (tenant_id, schema_id) REFERENCES schema
);

CREATE TABLE ledger (
    batch_id bigint GENERATED ALWAYS AS IDENTITY,
    agent_id int NOT NULL,
    epoch uuid NOT NULL,
    seq bigint NOT NULL,
    kind smallint NOT NULL,
    status smallint NOT NULL,
    digest bytea NOT NULL,
    readings int NOT NULL,
    schema_id bytea,
    first_at timestamptz,
    last_at timestamptz,
    clock_synchronised boolean,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    folded boolean NOT NULL DEFAULT false,
    PRIMARY KEY (agent_id, epoch, seq)
);
COMMENT ON TABLE ledger IS 'One row per message of an agent''s buffer, in the transaction that stores its readings.';
COMMENT ON COLUMN ledger.kind IS '0 data, 1 birth, 2 gap';
COMMENT ON COLUMN ledger.status IS '0 stored, 1 parked, 2 dead';
COMMENT ON COLUMN ledger.folded IS 'Counted in ledger_epoch.committed.';
CREATE INDEX ledger_batch ON ledger (batch_id);
CREATE INDEX ledger_unfolded ON ledger (agent_id, epoch, seq) WHERE NOT folded;

CREATE TABLE ledger_epoch (
    agent_id int NOT NULL,
    epoch uuid NOT NULL,
    committed int8multirange NOT NULL DEFAULT '{}',
    dropped int8multirange NOT NULL DEFAULT '{}',
    disputed int8multirange NOT NULL DEFAULT '{}',
    position bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (agent_id, epoch)
);
COMMENT ON COLUMN ledger_epoch.dropped IS 'Seqs that a gap record says will never come; refused if they do.';
COMMENT ON COLUMN ledger_epoch.disputed IS 'Seqs that came with two contents; never announced as committed.';

CREATE TABLE parked (
    batch_id bigint PRIMARY KEY,
    tenant_id int NOT NULL,
    agent_id int NOT NULL,
    schema_id bytea NOT NULL,
    topic text NOT NULL,
    payload bytea NOT NULL,
    reason text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX parked_schema ON parked (tenant_id, schema_id);

CREATE TABLE dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text,
    agent text,
    topic text NOT NULL,
    kind text NOT NULL,
    reason text NOT NULL,
    digest bytea NOT NULL,
    payload bytea NOT NULL,
    first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    times bigint NOT NULL DEFAULT 1,
    batch_id bigint,
    UNIQUE (topic, digest)
);

CREATE TABLE gap (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id bigint NOT NULL,
    agent_id int NOT NULL,
    reason text NOT NULL,
    dropped jsonb NOT NULL,
    points int[] NOT NULL,
    first_at timestamptz,
    last_at timestamptz,
    readings bigint NOT NULL
);
CREATE INDEX gap_batch ON gap (batch_id);

CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id bigint NOT NULL,
    point_id int NOT NULL,
    at_us bigint NOT NULL,
    value text,
    quality smallint NOT NULL,
    reason text NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX quarantine_batch ON quarantine (batch_id);

CREATE TABLE change_feed (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    tenant_id int NOT NULL,
    cause text NOT NULL,
    points int[] NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    batch_id bigint,
    appended_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE change_feed IS 'What changed that accounts depend on; read in the order of (xid, id).';
CREATE INDEX change_feed_order ON change_feed (xid, id);

CREATE TABLE feed_follower (
    name text PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT '0',
    id bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

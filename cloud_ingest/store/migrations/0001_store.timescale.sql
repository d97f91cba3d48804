-- Reading tables as hypertables; works on the Apache-2 and the community edition.

CREATE TABLE reading_float (
    at timestamptz NOT NULL,
    value float8,
    batch_id bigint NOT NULL,
    point_id int NOT NULL,
    quality smallint NOT NULL
);
SELECT create_hypertable('reading_float', by_range('at', INTERVAL '7 days'), create_default_indexes => false);
CREATE INDEX reading_float_point_at ON reading_float (point_id, at);

CREATE TABLE reading_int (
    at timestamptz NOT NULL,
    value int8,
    batch_id bigint NOT NULL,
    point_id int NOT NULL,
    quality smallint NOT NULL
);
SELECT create_hypertable('reading_int', by_range('at', INTERVAL '7 days'), create_default_indexes => false);
CREATE INDEX reading_int_point_at ON reading_int (point_id, at);

CREATE TABLE reading_bool (
    at timestamptz NOT NULL,
    value bool,
    batch_id bigint NOT NULL,
    point_id int NOT NULL,
    quality smallint NOT NULL
);
SELECT create_hypertable('reading_bool', by_range('at', INTERVAL '7 days'), create_default_indexes => false);
CREATE INDEX reading_bool_point_at ON reading_bool (point_id, at);

CREATE TABLE reading_text (
    at timestamptz NOT NULL,
    value text,
    batch_id bigint NOT NULL,
    point_id int NOT NULL,
    quality smallint NOT NULL
);
SELECT create_hypertable('reading_text', by_range('at', INTERVAL '7 days'), create_default_indexes => false);
CREATE INDEX reading_text_point_at ON reading_text (point_id, at);

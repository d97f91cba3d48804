-- Reading tables as native range partitions; `cloud_ingest.store.partitions` makes the partitions.

CREATE TABLE reading_float (
    at timestamptz NOT NULL,
    value float8,
    batch_id bigint NOT NULL,
    point_id int NOT NULL,
    quality smallint NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX reading_float_point_at ON reading_float (point_id, at);

CREATE TABLE reading_int (
    at timestamptz NOT NULL,
    value int8,
    batch_id bigint NOT NULL,
    point_id int NOT NULL,
    quality smallint NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX reading_int_point_at ON reading_int (point_id, at);

CREATE TABLE reading_bool (
    at timestamptz NOT NULL,
    value bool,
    batch_id bigint NOT NULL,
    point_id int NOT NULL,
    quality smallint NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX reading_bool_point_at ON reading_bool (point_id, at);

CREATE TABLE reading_text (
    at timestamptz NOT NULL,
    value text,
    batch_id bigint NOT NULL,
    point_id int NOT NULL,
    quality smallint NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX reading_text_point_at ON reading_text (point_id, at);

-- What operators decide about what was put aside: dead letters and quarantined readings.

CREATE TABLE operator_action (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text NOT NULL,
    what text NOT NULL,
    why text NOT NULL,
    detail jsonb NOT NULL
);
COMMENT ON TABLE operator_action IS 'What somebody did to stored things by hand, in the transaction that did it; never changed.';
COMMENT ON COLUMN operator_action.what IS 'Command, such as dlq discard.';

ALTER TABLE quarantine
    ADD COLUMN state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'released', 'discarded')),
    ADD COLUMN action_id bigint REFERENCES operator_action;
COMMENT ON COLUMN quarantine.state IS 'A reading stays as it came, whatever becomes of it.';
COMMENT ON COLUMN quarantine.action_id IS 'What released or discarded it.';
CREATE INDEX quarantine_held ON quarantine (id) WHERE state = 'held';

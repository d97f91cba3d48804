-- record --
-- One action.
INSERT INTO operator_action (who, what, why, detail) VALUES (%(who)s, %(what)s, %(why)s, %(detail)s) RETURNING id

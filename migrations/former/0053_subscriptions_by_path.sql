-- A push that nobody follows says who follows the same path at another host: mostly a webhook that does not know its own.
CREATE INDEX subscriptions_by_path ON subscriptions (substr(repository, strpos(repository, '/') + 1));

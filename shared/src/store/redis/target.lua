-- Writes a target. Returns {1, ''}, or {0, the stored target ('' for none)}.
-- KEYS: targets, targets:revision, targets:until, targets:counters, targets:used.
-- ARGV: its key; the revision that must be stored ('' for none); revision; the target as JSON
-- ('' to remove it); when it no longer restricts attempts ('' if it restricts none); the time now;
-- the time before which an unused target is deleted; milliseconds until all expire unless one is
-- written.
local targets, revisions, restricting, counters, used = unpack(KEYS)
local key = ARGV[1]
local function keep()
  for _, name in ipairs(KEYS) do redis.call('PEXPIRE', name, ARGV[8]) end
end
keep()
if (redis.call('HGET', revisions, key) or '') ~= ARGV[2] then
  return { 0, redis.call('HGET', targets, key) or '' }
end
if ARGV[4] == '' then
  redis.call('HDEL', targets, key)
  redis.call('HDEL', revisions, key)
else
  redis.call('HSET', targets, key, ARGV[4])
  redis.call('HSET', revisions, key, ARGV[3])
end
if ARGV[5] == '' then
  redis.call('ZREM', restricting, key)
else
  redis.call('ZADD', restricting, ARGV[5], key)
end
if ARGV[4] == '' and redis.call('HEXISTS', counters, key) == 0 then
  redis.call('ZREM', used, key)
else
  redis.call('ZADD', used, ARGV[6], key)
end
purge_targets(targets, revisions, restricting, counters, used, ARGV[7])
keep()
return { 1, '' }

-- Writes a target. Returns {1, ''}, or {0, the stored target ('' for none)}.
-- KEYS: targets, targets:revision, targets:until, targets:counters, targets:used.
-- ARGV: its key; the revision that must be stored ('' for none); revision; the target as JSON
-- ('' to remove it); when it no longer restricts attempts ('' if it restricts none); the time now;
-- the time before which an unused target is deleted; milliseconds until all expire unless one is
-- written.
local MAX_PURGED = 10
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
redis.call('ZADD', used, ARGV[6], key)
local stale = redis.call('ZRANGE', used, '-inf', '(' .. ARGV[7], 'BYSCORE', 'LIMIT', 0, MAX_PURGED)
for _, name in ipairs(stale) do
  for _, hash in ipairs({ targets, revisions, counters }) do redis.call('HDEL', hash, name) end
  redis.call('ZREM', restricting, name)
  redis.call('ZREM', used, name)
end
keep()
return { 1, '' }

-- Creates a webhook.
-- ARGV: now, task, id, reference, a random name of this call, revision, status, due_at,
-- archived_at, expires_at, record, url, headers, payload, whether memory is nearly full.
-- Returns the record that exists, up to two expired webhooks of this shard, whether one of those
-- has the id, and the tombstone of the id or 'full'.
local task = ARGV[2]
local function some_expired()
  return redis.call('ZRANGE', expiry, '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, 2)
end
local found = load()
if found then
  if is_expired(found) then return { false, { expiry_entry(task, found) }, 1, false } end
  -- An earlier try of this call took effect.
  if found.t == ARGV[5] then return { false, {}, 0, false } end
  return { redis.call('HGET', w, 'r') or '', {}, 0, false }
end
local tombstone = redis.call('HGET', w, 'z')
if tombstone then return { false, {}, 0, tombstone } end
if ARGV[15] == '1' then return { false, some_expired(), 0, 'full' } end
local new = {
  v = ARGV[6], s = ARGV[7], d = ARGV[8], a = ARGV[9], x = ARGV[10], f = ARGV[4], i = ARGV[3],
}
redis.call('HSET', c, 'u', ARGV[12], 'h', ARGV[13], 'p', ARGV[14])
redis.call(
  'HSET', w, 'r', ARGV[11], 'v', new.v, 's', new.s, 'd', new.d, 'a', new.a, 'x', new.x,
  'f', new.f, 'i', new.i, 't', ARGV[5]
)
redis.call('ZADD', time, 0, task)
if new.f ~= '' then redis.call('ZADD', ref, 0, task) end
move(task, { d = '', a = '', x = '' }, new)
return { false, some_expired(), 0, false }

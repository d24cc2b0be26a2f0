-- Replaces a reservation. Returns 'done', 'missing' or 'changed'.
-- KEYS: the reservation.
-- ARGV: JSON, expires_at, now, milliseconds until the key expires, JSON that must be stored.
local found = redis.call('HMGET', KEYS[1], 'j', 'x')
if not found[1] or tonumber(found[2]) <= tonumber(ARGV[3]) then return 'missing' end
if found[1] ~= ARGV[5] then return 'changed' end
redis.call('HSET', KEYS[1], 'j', ARGV[1], 'x', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 'done'

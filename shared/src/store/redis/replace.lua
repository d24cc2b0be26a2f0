-- KEYS: the reservation. ARGV: JSON, expires_at, now, after how many milliseconds the key goes by itself, JSON that it must be.
local found = redis.call('HMGET', KEYS[1], 'j', 'x')
if not found[1] or tonumber(found[2]) <= tonumber(ARGV[3]) then return 0 end
if found[1] ~= ARGV[5] then return 0 end
redis.call('HSET', KEYS[1], 'j', ARGV[1], 'x', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1

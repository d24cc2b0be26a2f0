-- KEYS[2] the reservation. ARGV: prefix, now, JSON that it must be, JSON, expires_at.
local found = redis.call('HMGET', KEYS[2], 'j', 'x')
if not found[1] or tonumber(found[2]) <= now then return 0 end
if found[1] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[2], 'j', ARGV[4], 'x', ARGV[5])
redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', tonumber(ARGV[5]) + LINGER_MS))
return 1

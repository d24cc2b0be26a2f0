-- Returns the record and the content of a message of one moment. ARGV: now.
if not message_exists(w, load_message(w)) then return {} end
local found = content()
return { redis.call('HGET', w, 'r'), found[1], found[2], found[3] }

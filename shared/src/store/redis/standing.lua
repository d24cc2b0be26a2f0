-- Returns the record of a message, then record and z of each delivery, of one moment. Nothing if
-- the message does not exist. A key that another program wrote counts as an unreadable record.
-- KEYS: the indexes, w, c, then w of each delivery. ARGV: now.
if not message_exists(w, load_message(w)) then return {} end
local answer = { redis.call('HGET', w, 'r') }
for at = 9, #KEYS do
  local found = redis.pcall('HMGET', KEYS[at], 'r', 'z')
  if found.err then found = { '', false } end
  answer[#answer + 1] = found[1]
  answer[#answer + 1] = found[2]
end
return answer

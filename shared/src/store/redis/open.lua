-- Returns the record and the content of one moment.
local record = redis.call('HGET', w, 'r')
if not record then return {} end
local found = content()
return { record, found[1], found[2], found[3] }
